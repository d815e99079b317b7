//! Brings one delivery to its end: it is accepted, or it must not be sent, or it gets a record.
//!
//! Invariant: each attempt first checks that no Page of the delivery was erased after it was received.

use std::time::Duration;

use common::posting::TIMEOUT;
use common::records::dead_letter::{self, usage::Usage};
use common::records::probe;
use common::records::write_records;
use common::retry::FORWARD;
use common::sealing::SealingError;
use common::store::StoreError;
use model::forward::ForwardedDelivery;
use model::job::Job;
use model::webhook::forward_probe_nonce;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::forwarder::{Forwarder, Turn};
use super::health::Kind;
use crate::dispatch::{FailedJob, save_dead_letter};
use crate::waiting_deliveries::{is_erased, save_record};

/// The largest size of all records in bytes. Beyond it, deliveries wait in the queue.
const MAX_STORED_BYTES: usize = 64 << 20;
/// How much longer than to its deadline a delivery waits for its turn while the program is slow but accepts
/// everything. RabbitMQ gives up a message after half an hour.
const MAX_LATE: Duration = Duration::from_secs(20 * 60);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The program accepted the delivery.
    Accepted,
    /// The delivery must not be sent any more, so the program was not asked.
    Settled,
    /// The program did not accept the delivery.
    Failed,
    /// Forwarding ended before the delivery was sent.
    Ended,
}

/// How the handling of a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The message need not hold the delivery any more.
    Finished,
    /// The message must be delivered again.
    Unfinished,
}

impl Forwarder {
    /// Sends a delivery when it is its turn, and again with growing pauses until `deadline`. Then it gets a
    /// record. Returns [`Outcome::Unfinished`] if forwarding ends before, or if there is no room for the
    /// record. Fails if the store does not answer.
    pub(super) async fn deliver(
        &self,
        delivery: &ForwardedDelivery,
        turn: Turn,
        deadline: Instant,
        ended: &CancellationToken,
    ) -> Result<Outcome, StoreError> {
        for before in &turn.before {
            tokio::select! {
                () = before.cancelled() => {}
                () = ended.cancelled() => return Ok(Outcome::Unfinished),
            }
        }
        let mut failures = 0;
        loop {
            if ended.is_cancelled() {
                return Ok(Outcome::Unfinished);
            }
            let late = Instant::now().saturating_duration_since(deadline);
            if late > MAX_LATE || (!late.is_zero() && self.health.has_failures()) {
                return self.store(delivery).await;
            }
            let kind = if failures == 0 {
                Kind::First
            } else {
                Kind::Later
            };
            match self.attempt(delivery, kind, ended).await? {
                Attempt::Accepted | Attempt::Settled => return Ok(Outcome::Finished),
                Attempt::Ended => return Ok(Outcome::Unfinished),
                Attempt::Failed => {}
            }
            let pause = FORWARD.delay(failures);
            failures += 1;
            if Instant::now() + pause + TIMEOUT > deadline {
                return self.store(delivery).await;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = ended.cancelled() => {}
            }
        }
    }

    /// Sends a delivery once, if it may be sent. Fails if the store does not answer.
    pub(super) async fn attempt(
        &self,
        delivery: &ForwardedDelivery,
        kind: Kind,
        ended: &CancellationToken,
    ) -> Result<Attempt, StoreError> {
        // The semaphore is never closed.
        let _permit = tokio::select! {
            permit = self.sends.acquire() => permit,
            () = ended.cancelled() => return Ok(Attempt::Ended),
        };
        let now = self.context.clock.now();
        let outcomes = &self.context.metrics.forwarded_deliveries;
        if delivery.has_expired(now) {
            outcomes.count("expired");
            return Ok(Attempt::Settled);
        }
        if is_erased(&*self.context.store, delivery).await? {
            outcomes.count("erased");
            return Ok(Attempt::Settled);
        }
        if delivery.age(now) > self.max_age {
            self.health.was_too_old();
            let reason =
                "it could not be forwarded for longer than PAGESYNC_FORWARD_MAX_AGE".to_owned();
            return self.give_up(delivery, reason, "too_old").await;
        }
        let envelope = match self.opener.open(delivery) {
            Ok(envelope) => envelope,
            Err(SealingError::Damaged) => {
                let reason = "the sealed delivery was changed, so it cannot be opened".to_owned();
                return self.give_up(delivery, reason, "unopenable").await;
            }
            // The key may be here after the next start, or the key file may be readable again.
            Err(error) => {
                if self.log_limit.allows() {
                    tracing::error!(error = %error, "deliveries cannot be opened, and wait; this is logged once a minute");
                }
                self.health.failed_because(error.to_string(), false, kind);
                return Ok(Attempt::Failed);
            }
        };
        // A probe is for the id 0, so it is of no Page. Other bodies need not be parsed.
        let is_of_no_page = delivery.pages.is_empty();
        let probe = is_of_no_page.then(|| forward_probe_nonce(&envelope.body));
        match self.sender.send(envelope, delivery.received_at).await {
            Ok(()) => {
                self.health.accepted();
                outcomes.count("accepted");
                if let Some(nonce) = probe.flatten() {
                    let write = probe::arrival_write(&nonce, self.context.clock.now());
                    write_records(&*self.context.store, vec![write]).await?;
                }
                Ok(Attempt::Accepted)
            }
            Err(error) => {
                self.health.failed(&error, kind);
                outcomes.count(error.label());
                Ok(Attempt::Failed)
            }
        }
    }

    /// Stores the dead letter of a delivery.
    async fn give_up(
        &self,
        delivery: &ForwardedDelivery,
        reason: String,
        label: &'static str,
    ) -> Result<Attempt, StoreError> {
        let context = &self.context;
        context.metrics.forwarded_deliveries.count(label);
        let mut usage = Usage::load(&*context.store, context.clock.now()).await?;
        let failed = FailedJob {
            job: Job::Forward(delivery.clone()),
            reason,
            label,
        };
        save_dead_letter(context, &mut usage, &failed, &[]).await?;
        if is_erased(&*self.context.store, delivery).await? {
            let id = dead_letter::id(&failed.job);
            dead_letter::remove(&*context.store, &id).await?;
        }
        Ok(Attempt::Settled)
    }

    /// Stores a delivery that was not accepted, so that its message can be acknowledged.
    async fn store(&self, delivery: &ForwardedDelivery) -> Result<Outcome, StoreError> {
        use std::sync::atomic::Ordering::Relaxed;
        let size = delivery.sealed.len();
        if self.stored_bytes.fetch_add(size, Relaxed) + size > MAX_STORED_BYTES {
            self.stored_bytes.fetch_sub(size, Relaxed);
            self.health.stop();
            return Ok(Outcome::Unfinished);
        }
        save_record(&self.context, delivery).await?;
        self.stored.notify_one();
        Ok(Outcome::Finished)
    }
}
