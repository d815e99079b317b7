//! The worker: takes jobs from the queue, applies them to the store, acknowledges.
//!
//! Invariants: a message is acknowledged only when everything it asked for is in the store, or kept
//! there as a dead letter; while the store is away nothing is held and nothing is tried. It
//! publishes nothing. Any number of workers may run at once.

mod apply;
pub mod outage;
pub mod suspects;

use std::sync::Arc;
use std::time::Duration;

use common::backoff::Backoff;
use common::clock::Clock;
use common::config::Config;
use common::lifecycle::Lifecycle;
use common::queue::{Delivery, Queue};
use common::store::{Store, StoreError};
use common::telemetry::Metrics;
use model::field::TrackedFields;
use model::lane::Lane;

use outage::Gate;

/// Deliveries worked on at the same time. More makes larger groups at the store, not more work.
const HANDS: usize = 4;
/// A message delivered this often is taken apart.
pub const SUSPECT_FROM: u32 = 3;

/// What a worker works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where jobs come from.
    pub queue: Arc<dyn Queue>,
    /// Where Pages are.
    pub store: Arc<dyn Store>,
    /// Counts.
    pub metrics: Metrics,
    /// Stamps what is written.
    pub clock: Clock,
    /// Which fields are kept.
    pub tracked: TrackedFields,
    /// How long after a notice a Page is verified.
    pub verify_after: Duration,
    /// Names this process among others, for the trials of dead letters.
    pub process: Arc<str>,
}

/// A name no other process has.
pub fn process_name() -> Arc<str> {
    format!("{:016x}", fastrand::u64(..)).into()
}

impl Parts {
    /// The parts a configuration asks for.
    pub fn new(
        config: &Config,
        queue: Arc<dyn Queue>,
        store: Arc<dyn Store>,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        let (tracked, verify_after) = (config.tracked.clone(), config.verify_after);
        Self {
            queue,
            store,
            metrics,
            clock,
            tracked,
            verify_after,
            process: process_name(),
        }
    }
}

/// Works until the process is asked to end, then finishes what it holds.
pub async fn run(parts: Parts, lifecycle: Lifecycle) -> Result<(), String> {
    let gate = Arc::new(Gate::default());
    let mut hands = tokio::task::JoinSet::new();
    hands.spawn(sweep_at_start(parts.clone(), lifecycle.clone()));
    for _ in 0..HANDS {
        hands.spawn(work(parts.clone(), gate.clone(), lifecycle.clone()));
    }
    while let Some(ended) = hands.join_next().await {
        ended.map_err(|panic| panic.to_string())?;
    }
    Ok(())
}

/// Letters that an earlier process left untried, or that only this build understands.
async fn sweep_at_start(parts: Parts, lifecycle: Lifecycle) {
    let mut backoff = Backoff::default();
    while let Err(error) = suspects::sweep(&parts).await {
        tracing::warn!(error = %error, "cannot look through the dead letters yet");
        tokio::select! {
            () = lifecycle.stopping() => return,
            () = backoff.wait() => {}
        }
    }
}

async fn work(parts: Parts, gate: Arc<Gate>, lifecycle: Lifecycle) {
    let mut backoff = Backoff::default();
    while !lifecycle.is_stopping() {
        let outages = gate.pass().await;
        let received = tokio::select! {
            () = lifecycle.stopping() => return,
            () = gate.closed() => continue,
            received = parts.queue.receive(Lane::Webhooks) => received,
        };
        let delivery = match received {
            Ok(delivery) => delivery,
            Err(error) => {
                tracing::warn!(error = %error, "cannot receive");
                tokio::select! {
                    () = lifecycle.stopping() => return,
                    () = backoff.wait() => continue,
                }
            }
        };
        backoff.reset();
        // A task of its own: a panic drops the delivery, which comes again, and nothing else.
        let (mine, attempt, jobs) = (parts.clone(), delivery.attempt, delivery.jobs.len());
        let outcome = tokio::spawn(async move { handle(&mine, delivery).await }).await;
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "the store does not take what is in hand");
                gate.wait_out(&parts, &lifecycle, outages).await;
            }
            Err(_panic) => {
                tracing::error!(
                    delivery.attempt = attempt,
                    delivery.jobs = jobs,
                    "a delivery panicked the worker; it comes again"
                );
            }
        }
    }
}

/// Does one delivery. `Err`: the store could not take it; the delivery is dropped.
pub async fn handle(parts: &Parts, delivery: Delivery) -> Result<(), StoreError> {
    if delivery.attempt >= SUSPECT_FROM {
        return suspects::take_apart(parts, delivery).await;
    }
    apply::apply(parts, &delivery.jobs).await?;
    settle(parts, delivery).await;
    Ok(())
}

/// Acknowledges. If that fails the message comes again and has no effect.
async fn settle(parts: &Parts, delivery: Delivery) {
    let jobs = delivery.jobs.len() as u64;
    match delivery.ack().await {
        Ok(()) => {
            parts.metrics.jobs_acknowledged.inc_by(jobs);
        }
        Err(error) => {
            tracing::info!(error = %error, "an acknowledgement did not arrive; the message comes again");
        }
    }
}
