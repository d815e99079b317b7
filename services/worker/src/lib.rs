//! The worker: receives jobs from the queue, applies them to the store and acknowledges them.
//!
//! Invariants: a message is acknowledged only after its jobs were executed, or stored or counted as
//! dead letters. A poll commits the next due time of its subject; if it cannot, the lease of its claim
//! makes the subject due again. During a store outage the worker holds no delivery and receives
//! none. The worker publishes nothing, and no other role opens tokens. Any number of workers may
//! run at once.

mod acknowledge;
mod apply;
mod consumer;
pub mod context;
mod corrupt_page;
pub mod dead_letter_retries;
mod dispatch;
mod erasure;
mod forward;
pub mod outage;
mod poison_messages;
mod poll;
pub mod token_listener;
mod waiting_deliveries;

use std::sync::Arc;
use std::time::Duration;

use common::records::app::StoreBindingError;
use common::retry::Backoff;

use common::queue::concurrency;
use consumer::run_consumer;
pub use consumer::{POISON_THRESHOLD, handle_delivery};
use context::Context;
pub use dispatch::apply_jobs;
use model::queue_name::QueueName;
use outage::ProcessingGate;

/// How long after a retry of the dead letters the next one is made. Another process may have written
/// data that this build can read.
const RETRY_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// The queues whose messages consumers handle. [`forward`] receives from the other one.
const CONSUMED: [QueueName; 4] = [
    QueueName::Webhooks,
    QueueName::Logins,
    QueueName::PollsNow,
    QueueName::PollsDaily,
];

/// An error that ends a worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The store belongs to another app.
    #[error(transparent)]
    StoreBinding(#[from] StoreBindingError),
    /// A task of the worker panicked.
    #[error("a task of the worker panicked: {0}")]
    Consumer(#[from] tokio::task::JoinError),
}

/// Runs the consumers until the process is stopping, then finishes the deliveries in progress.
/// Fails if the store belongs to another app or if a task panics.
pub async fn run(context: Context) -> Result<(), WorkerError> {
    let gate = Arc::new(ProcessingGate::default());
    let mut tasks = tokio::task::JoinSet::new();
    bind_store_to_app(&context).await?;
    context.queue.start_receiving();
    tasks.spawn(retry_dead_letters(context.clone(), gate.clone()));
    tasks.spawn(erasure::scrub_when_due(context.clone()));
    tasks.spawn(forward::run(context.clone(), gate.clone()));
    for queue_name in CONSUMED {
        // Each consumer handles one delivery at a time.
        for _ in 0..concurrency(queue_name, context.poll_concurrency) {
            tasks.spawn(run_consumer(context.clone(), queue_name, gate.clone()));
        }
    }
    let mut is_stopping = false;
    loop {
        tokio::select! {
            () = context.lifecycle.stopping(), if !is_stopping => {
                is_stopping = true;
                context.queue.stop_receiving();
            }
            ended = tasks.join_next() => match ended {
                Some(ended) => ended?,
                None => break,
            },
        }
    }
    // A trial of a process that stops was not interrupted by its job.
    outage::remove_trials(&context).await;
    Ok(())
}

/// Claims the store for the configured app. Retries until the store answers or the process is
/// stopping.
async fn bind_store_to_app(context: &Context) -> Result<(), StoreBindingError> {
    let mut backoff = Backoff::default();
    loop {
        match poll::app_subscription::bind_store_to_app(context).await {
            Err(StoreBindingError::Store(error)) => {
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

/// Retries the dead letters that an earlier process or a store outage left pending, and those that
/// only this build can decode: at the start, after each store outage, and every [`RETRY_INTERVAL`],
/// until the process is stopping.
async fn retry_dead_letters(context: Context, gate: Arc<ProcessingGate>) {
    let mut backoff = Backoff::default();
    loop {
        // The receiver also reports an outage that ends during the retries.
        let mut is_paused = gate.subscribe();
        let retried = dead_letter_retries::retry_pending(&context).await;
        let wait_for_next = async {
            match retried {
                Ok(()) => {
                    backoff.reset();
                    let recovered = async {
                        while is_paused.changed().await.is_ok() && *is_paused.borrow_and_update() {}
                    };
                    let _ = tokio::time::timeout(RETRY_INTERVAL, recovered).await;
                }
                Err(error) => {
                    tracing::warn!(error = %error, "cannot retry the pending dead letters yet");
                    backoff.wait().await;
                }
            }
        };
        tokio::select! {
            () = context.lifecycle.stopping() => return,
            () = wait_for_next => {}
        }
    }
}
