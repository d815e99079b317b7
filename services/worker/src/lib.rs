//! The worker: takes jobs from the queue, applies them to the store, acknowledges.
//!
//! Invariants: a message is acknowledged only when everything it asked for is in the store, or kept
//! there as a dead letter; while the store is away nothing is held and nothing is tried; every poll
//! ends in a commit that says when the next one is. It publishes nothing, and it alone opens tokens.
//! Any number of workers may run at once.

mod acknowledge;
mod apply;
mod consumer;
pub mod context;
mod corrupt_page;
mod dispatch;
mod erasure;
pub mod outage;
pub mod poison_messages;
mod poll;

use std::sync::Arc;

use common::records::app::ClaimError;
use common::retry::Backoff;

use consumer::{CONCURRENCY, run_consumer};
pub use consumer::{POISON_THRESHOLD, handle_delivery};
use context::Context;
pub use dispatch::apply_jobs;
use outage::ProcessingGate;

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The store serves another app.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// A consumer ended by a panic.
    #[error("a consumer panicked: {0}")]
    Consumer(#[from] tokio::task::JoinError),
}

/// Runs the consumers until the process is asked to stop, then finishes the deliveries they hold.
pub async fn run(context: Context) -> Result<(), WorkerError> {
    let gate = Arc::new(ProcessingGate::default());
    let mut tasks = tokio::task::JoinSet::new();
    claim_store(&context).await?;
    tasks.spawn(retry_dead_letters_at_start(context.clone()));
    for (queue_name, consumers) in CONCURRENCY {
        for _ in 0..consumers {
            tasks.spawn(run_consumer(context.clone(), queue_name, gate.clone()));
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

/// Claims the store for the configured app, and waits for the store as long as that takes.
async fn claim_store(context: &Context) -> Result<(), ClaimError> {
    let mut backoff = Backoff::default();
    loop {
        match poll::app_subscription::claim_store(context).await {
            Err(ClaimError::Store(error)) => {
                tracing::warn!(error = %error, "the store does not answer yet");
            }
            claimed => return claimed,
        }
        tokio::select! {
            () = context.lifecycle.stopping() => return Ok(()),
            () = backoff.wait() => {}
        }
    }
}

/// Letters that an earlier process left untried, or that only this build understands.
async fn retry_dead_letters_at_start(context: Context) {
    let mut backoff = Backoff::default();
    while let Err(error) = poison_messages::retry_pending(&context).await {
        tracing::warn!(error = %error, "cannot look through the dead letters yet");
        tokio::select! {
            () = context.lifecycle.stopping() => return,
            () = backoff.wait() => {}
        }
    }
}
