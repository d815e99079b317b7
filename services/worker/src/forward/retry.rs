//! Sends the deliveries that have a record again.
//!
//! Invariant: while the program is down, one delivery is sent at a time, with growing pauses. Its success
//! shows that the program accepts deliveries again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::records::waiting_delivery::{self, WaitingDelivery};
use common::records::write_records;
use common::retry::{FORWARD, FORWARD_RECORD};
use common::store::{StoreError, Versioned};
use futures_util::StreamExt as _;
use model::time::HostTime;
use tokio_util::sync::CancellationToken;

use super::deliver::Attempt;
use super::forwarder::Forwarder;
use super::health::Kind;

/// How often the records are read although no delivery is due. Another worker may have written one.
const INTERVAL: Duration = Duration::from_secs(30);
/// The shortest time between two reads of the records.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// How many deliveries are sent again at a time.
const CONCURRENCY: usize = 8;
/// How many deliveries are sent before the records are read again.
const MAX_DUE: usize = 256;

/// The records as they were read.
#[derive(Debug, Default)]
struct Waiting {
    /// The deliveries that are due, in the order in which they were received.
    due: Vec<Versioned<WaitingDelivery>>,
    /// The delivery whose next attempt is the first one.
    first: Option<Versioned<WaitingDelivery>>,
    /// The time of the next attempt of those that are not due.
    next_at: Option<HostTime>,
    bytes: usize,
}

/// Sends waiting deliveries until `ended`.
pub(super) async fn retry_all(forwarder: Arc<Forwarder>, ended: CancellationToken) {
    while !ended.is_cancelled() {
        let pause = match forwarder.retry_due(&ended).await {
            Ok(pause) => pause,
            Err(error) => {
                forwarder.warn(&error);
                FORWARD.delay(0)
            }
        };
        let is_down = forwarder.health.is_down();
        let woken = async {
            tokio::select! {
                // A program that is down is tried with pauses, however many records are written.
                () = forwarder.stored.notified(), if !is_down => {}
                // The others are sent as soon as the program accepts one.
                () = forwarder.health.wait_until(false), if is_down => {}
            }
        };
        // All records are read each time.
        tokio::select! {
            () = ended.cancelled() => {}
            () = tokio::time::sleep(MIN_PAUSE) => {}
        }
        tokio::select! {
            () = ended.cancelled() => {}
            () = woken => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Forwarder {
    /// Sends the deliveries that are due, or one of them if the program is down. Returns how long to wait.
    async fn retry_due(&self, ended: &CancellationToken) -> Result<Duration, StoreError> {
        let now = self.context.clock.now();
        let waiting = self.read_waiting(now).await?;
        self.stored_bytes.store(waiting.bytes, Ordering::Relaxed);
        if self.health.is_down() {
            return self.probe(waiting, ended).await;
        }
        let retries = waiting.due.into_iter().map(|one| async move {
            // The program may be down since the first of them was sent.
            if ended.is_cancelled() || self.health.is_down() {
                return Ok(());
            }
            self.retry(one, Kind::Later, ended).await.map(drop)
        });
        let mut retries = futures_util::stream::iter(retries).buffered(CONCURRENCY);
        let mut was_sent = false;
        while let Some(retried) = retries.next().await {
            retried?;
            was_sent = true;
        }
        if was_sent {
            return Ok(Duration::ZERO);
        }
        let until_next = waiting.next_at.map(|at| now.until(at));
        Ok(until_next.unwrap_or(INTERVAL).min(INTERVAL))
    }

    /// Tries a program that is down with one delivery. Returns how long to wait.
    async fn probe(
        &self,
        waiting: Waiting,
        ended: &CancellationToken,
    ) -> Result<Duration, StoreError> {
        if waiting.first.is_none() && !self.holds_messages() {
            self.health.try_others();
        }
        let candidates = if waiting.due.is_empty() {
            waiting.first.into_iter().collect()
        } else {
            waiting.due
        };
        for one in candidates {
            // A delivery that is too old shows nothing of the program.
            if self.retry(one, Kind::Probe, ended).await? != Attempt::Settled {
                return Ok(FORWARD.delay(self.health.probes()));
            }
        }
        Ok(MIN_PAUSE)
    }

    /// Sends one delivery, and deletes its record or writes when it is sent again. A record that an erasure
    /// has deleted meanwhile is not written again.
    async fn retry(
        &self,
        stored: Versioned<WaitingDelivery>,
        kind: Kind,
        ended: &CancellationToken,
    ) -> Result<Attempt, StoreError> {
        let Versioned {
            version,
            value: waiting,
        } = stored;
        let attempt = match self.attempt(&waiting.delivery, kind, ended).await {
            // Only this delivery needs the stored data.
            Err(error) if !error.is_outage() => {
                tracing::error!(error = %error, "a delivery cannot be forwarded now; it is tried again");
                Attempt::Failed
            }
            attempt => attempt?,
        };
        let write = match attempt {
            Attempt::Ended => return Ok(attempt),
            Attempt::Accepted | Attempt::Settled => {
                waiting_delivery::remove_write(&waiting.delivery)
            }
            Attempt::Failed => {
                let now = self.context.clock.now();
                let next = WaitingDelivery {
                    retry_at: now.plus(FORWARD_RECORD.delay(waiting.failures)),
                    failures: waiting.failures.saturating_add(1),
                    delivery: waiting.delivery,
                };
                waiting_delivery::write(&next, Some(version), now)
            }
        };
        write_records(&*self.context.store, vec![write]).await?;
        Ok(attempt)
    }

    async fn read_waiting(&self, now: HostTime) -> Result<Waiting, StoreError> {
        let (mut waiting, mut after) = (Waiting::default(), None);
        while let Some(chunk) =
            waiting_delivery::next_chunk(&*self.context.store, &mut after).await?
        {
            for (_, stored) in chunk {
                let retry_at = stored.value.retry_at;
                waiting.bytes += stored.value.size();
                let is_earlier =
                    |first: &Versioned<WaitingDelivery>| retry_at < first.value.retry_at;
                if waiting.first.as_ref().is_none_or(is_earlier) {
                    waiting.first = Some(stored.clone());
                }
                if retry_at > now {
                    waiting.next_at = Some(waiting.next_at.map_or(retry_at, |at| at.min(retry_at)));
                } else if waiting.due.len() < MAX_DUE {
                    waiting.due.push(stored);
                }
            }
        }
        Ok(waiting)
    }
}
