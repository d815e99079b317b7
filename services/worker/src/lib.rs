//! The worker: takes jobs from the queue, applies them to the store, acknowledges.
//!
//! Invariants: a message is acknowledged only when everything it asked for is in the store, or kept
//! there as a dead letter; while the store is away nothing is held and nothing is tried; every poll
//! ends in a commit that says when the next one is. It publishes nothing, and it alone opens tokens.
//! Any number of workers may run at once.

mod apply;
mod forget;
mod fresh;
pub mod outage;
mod poll;
pub mod suspects;

use std::sync::Arc;
use std::time::Duration;

use common::backoff::Backoff;
use common::clock::Clock;
use common::config::Config;
use common::custody::{self, Keyring};
use common::graph::Graph;
use common::lifecycle::Lifecycle;
use common::queue::{Delivery, Queue};
use common::slots::Days;
use common::store::{Store, StoreError};
use common::telemetry::Metrics;
use model::field::TrackedFields;
use model::lane::Lane;

pub use apply::apply;
use outage::Gate;
use secrecy::SecretString;

/// Deliveries worked on at the same time, by lane. More for webhooks makes larger groups at the
/// store, not more work; polls mostly wait for Facebook.
const HANDS: [(Lane, usize); 3] = [
    (Lane::Webhooks, 4),
    (Lane::PollsNow, 8),
    (Lane::PollsDaily, 4),
];
/// How long what is in hand may take once the process is asked to end.
const LAST_WORK: Duration = Duration::from_secs(20);
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
    /// Asks Facebook.
    pub graph: Graph,
    /// Opens tokens.
    pub keyring: Keyring,
    /// Local days and their slots.
    pub days: Days,
    /// What Facebook is told of us.
    pub callback: Callback,
    /// Long walks end early when the process is asked to end.
    pub lifecycle: Lifecycle,
}

/// The app's subscription as it should be.
#[derive(Debug, Clone)]
pub struct Callback {
    /// Where webhooks go.
    pub address: String,
    /// What the handshake proves.
    pub verify_token: SecretString,
    /// Whether another address than ours is replaced.
    pub take_over: bool,
}

/// A name no other process has.
pub fn process_name() -> Arc<str> {
    format!("{:016x}", fastrand::u64(..)).into()
}

impl Parts {
    /// The parts a configuration asks for.
    pub fn new(
        config: &Config,
        (queue, store): (Arc<dyn Queue>, Arc<dyn Store>),
        metrics: Metrics,
        clock: Clock,
        lifecycle: Lifecycle,
    ) -> Result<Self, String> {
        let keyring = match config.token_keys.clone() {
            Some(keys) => Keyring::Given(keys),
            None => custody::key_file(&config.data_dir).map_err(|error| error.to_string())?,
        };
        Ok(Self {
            queue,
            store,
            metrics,
            graph: Graph::new(config, clock.clone())?,
            clock,
            tracked: config.tracked.clone(),
            verify_after: config.verify_after,
            process: process_name(),
            keyring,
            days: config.days.clone(),
            callback: Callback {
                address: config.webhook_address.clone().unwrap_or_default(),
                verify_token: config.verify_token.clone(),
                take_over: config.take_over_callback,
            },
            lifecycle,
        })
    }
}

/// Works until the process is asked to end, then finishes what it holds.
pub async fn run(parts: Parts) -> Result<(), String> {
    let gate = Arc::new(Gate::default());
    let mut hands = tokio::task::JoinSet::new();
    prepare(&parts).await?;
    hands.spawn(sweep_at_start(parts.clone()));
    for (lane, hands_of_lane) in HANDS {
        for _ in 0..hands_of_lane {
            hands.spawn(work(parts.clone(), lane, gate.clone()));
        }
    }
    while let Some(ended) = hands.join_next().await {
        ended.map_err(|panic| panic.to_string())?;
    }
    Ok(())
}

/// Makes sure that the store serves this app. `Err`: it belongs to another.
async fn prepare(parts: &Parts) -> Result<(), String> {
    let mut backoff = Backoff::default();
    loop {
        match poll::app::prepare(parts).await {
            Ok(claimed) => return claimed,
            Err(error) => tracing::warn!(error = %error, "the store does not answer yet"),
        }
        tokio::select! {
            () = parts.lifecycle.stopping() => return Ok(()),
            () = backoff.wait() => {}
        }
    }
}

/// Letters that an earlier process left untried, or that only this build understands.
async fn sweep_at_start(parts: Parts) {
    let mut backoff = Backoff::default();
    while let Err(error) = suspects::sweep(&parts).await {
        tracing::warn!(error = %error, "cannot look through the dead letters yet");
        tokio::select! {
            () = parts.lifecycle.stopping() => return,
            () = backoff.wait() => {}
        }
    }
}

async fn work(parts: Parts, lane: Lane, gate: Arc<Gate>) {
    let lifecycle = parts.lifecycle.clone();
    let mut backoff = Backoff::default();
    while !lifecycle.is_stopping() {
        let outages = gate.pass().await;
        let received = tokio::select! {
            () = lifecycle.stopping() => return,
            () = gate.closed() => continue,
            received = parts.queue.receive(lane) => received,
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
        let mut task = tokio::spawn(async move { handle(&mine, delivery).await });
        let outcome = tokio::select! {
            outcome = &mut task => outcome,
            () = out_of_time(&lifecycle) => {
                // Facebook answers too slowly for the end of the process: the delivery comes again.
                task.abort();
                tracing::warn!(lane = %lane, delivery.jobs = jobs, "not done in time to end; it comes again");
                return;
            }
        };
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

/// Resolves when the process was asked to end and what is in hand has had its time.
async fn out_of_time(lifecycle: &Lifecycle) {
    lifecycle.stopping().await;
    tokio::time::sleep(LAST_WORK).await;
}

/// Does one delivery. `Err`: the store could not take it; the delivery is dropped.
pub async fn handle(parts: &Parts, delivery: Delivery) -> Result<(), StoreError> {
    if delivery.attempt >= SUSPECT_FROM {
        return suspects::take_apart(parts, delivery).await;
    }
    Box::pin(apply(parts, &delivery.jobs)).await?;
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
