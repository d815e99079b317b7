//! Consumers: each receives one delivery at a time from one queue, has it handled, and acknowledges it.
//!
//! Invariant: a delivery is acknowledged only when everything it asked for is in the store. A panic drops
//! one delivery, which the queue delivers again.

use std::sync::Arc;
use std::time::Duration;

use common::lifecycle::Lifecycle;
use common::queue::delivery::Delivery;
use common::retry::Backoff;
use common::store::StoreError;
use model::queue_name::QueueName;

use crate::acknowledge::acknowledge;
use crate::context::Context;
use crate::dispatch::apply_jobs;
use crate::outage::ProcessingGate;
use crate::poison_messages;

/// Deliveries worked on at the same time, by queue. More for webhooks makes larger groups at the
/// store, not more work; polls mostly wait for Facebook.
pub(crate) const CONCURRENCY: [(QueueName, usize); 3] = [
    (QueueName::Webhooks, 4),
    (QueueName::PollsNow, 8),
    (QueueName::PollsDaily, 4),
];
/// How long what is in hand may take once the process is asked to end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(20);
/// A message delivered this often is taken apart.
pub const POISON_THRESHOLD: u32 = 3;

pub(crate) async fn run_consumer(
    context: Context,
    queue_name: QueueName,
    gate: Arc<ProcessingGate>,
) {
    let lifecycle = context.lifecycle.clone();
    let mut backoff = Backoff::default();
    while !lifecycle.is_stopping() {
        let outages = gate.wait_until_open().await;
        let received = tokio::select! {
            () = lifecycle.stopping() => return,
            () = gate.wait_until_paused() => continue,
            received = context.queue.receive(queue_name) => received,
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
        let (mine, attempt, jobs) = (context.clone(), delivery.attempt, delivery.jobs.len());
        let mut task = tokio::spawn(async move { handle_delivery(&mine, delivery).await });
        let outcome = tokio::select! {
            outcome = &mut task => outcome,
            () = out_of_time(&lifecycle) => {
                // Facebook answers too slowly for the end of the process: the delivery comes again.
                task.abort();
                tracing::warn!(queue_name = %queue_name, delivery.jobs = jobs, "not done in time to end; it comes again");
                return;
            }
        };
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "the store does not take what is in hand");
                gate.pause_until_recovered(&context, &lifecycle, outages)
                    .await;
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
    tokio::time::sleep(SHUTDOWN_GRACE).await;
}

/// Does one delivery. `Err`: the store could not take it; the delivery is dropped.
pub async fn handle_delivery(context: &Context, delivery: Delivery) -> Result<(), StoreError> {
    if delivery.attempt >= POISON_THRESHOLD {
        return poison_messages::split_delivery(context, delivery).await;
    }
    Box::pin(apply_jobs(context, &delivery.jobs)).await?;
    acknowledge(context, delivery).await;
    Ok(())
}
