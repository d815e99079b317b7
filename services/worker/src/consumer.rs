//! Consumers: each one receives one delivery at a time from its queue, handles the delivery and
//! acknowledges it.
//!
//! Invariant: a delivery is acknowledged only after each of its jobs was executed, or stored or
//! counted as a dead letter. A panic drops only the delivery that caused it, and the queue delivers it again.

use std::sync::Arc;
use std::time::Duration;

use common::lifecycle::Lifecycle;
use common::queue::delivery::Delivery;
use common::queue::error::QueueError;
use common::retry::Backoff;
use common::store::StoreError;
use model::job::Job;
use model::queue_name::QueueName;

use crate::acknowledge::acknowledge;
use crate::context::Context;
use crate::dispatch::{apply_each_job, apply_jobs};
use crate::outage::ProcessingGate;
use crate::poison_messages;

/// How long a delivery is executed again in place while the store does not answer. After that it is
/// given back, with all others, and processing is paused.
const IN_PLACE: Duration = Duration::from_secs(8);
/// How long a delivery in progress may still take when the process is stopping.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(20);
/// The jobs of a delivery with this attempt number or a higher one are executed one at a time.
pub const POISON_THRESHOLD: u32 = 3;

/// Receives and handles the deliveries of one queue until the process is stopping, and then those that
/// were delivered already. Pauses during store outages.
pub(crate) async fn run_consumer(
    context: Context,
    queue_name: QueueName,
    gate: Arc<ProcessingGate>,
) {
    let lifecycle = context.lifecycle.clone();
    let mut backoff = Backoff::default();
    let mut grace = std::pin::pin!(shutdown_grace_elapsed(&lifecycle));
    loop {
        let outages = gate.wait_until_open().await;
        let received = tokio::select! {
            () = &mut grace => return,
            () = gate.wait_until_paused(), if !lifecycle.is_stopping() => continue,
            received = context.queue.receive(queue_name) => received,
        };
        let delivery = match received {
            Ok(delivery) => delivery,
            Err(QueueError::Stopped) => return,
            Err(_) if lifecycle.is_stopping() => return,
            Err(error) => {
                if context.receive_errors.allows() {
                    tracing::warn!(error = %error, "cannot receive deliveries; the worker tries again, and logs this once a minute");
                }
                tokio::select! {
                    () = lifecycle.stopping() => return,
                    () = backoff.wait() => continue,
                }
            }
        };
        backoff.reset();
        // The delivery is handled in its own task, so that a panic drops only this delivery.
        let (task_context, attempt, jobs) =
            (context.clone(), delivery.attempt, delivery.jobs.len());
        let mut task = tokio::spawn(async move { handle_delivery(&task_context, delivery).await });
        let outcome = tokio::select! {
            outcome = &mut task => outcome,
            () = &mut grace => {
                // The end of the task drops the delivery, and the queue delivers it again.
                task.abort();
                tracing::warn!(queue_name = %queue_name, delivery.jobs = jobs, "a delivery was not finished before shutdown; the queue delivers it again");
                return;
            }
        };
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) if !error.is_outage() => {
                // Waiting does not help, and the other deliveries are not affected.
                tracing::error!(error = %error, "a delivery could not be handled; the queue delivers it again");
                tokio::select! {
                    () = lifecycle.stopping() => return,
                    () = backoff.wait() => {}
                }
            }
            Ok(Err(_)) if recovers_soon(&context).await => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "the store did not accept the changes of a delivery; processing is paused");
                gate.pause_until_recovered(&context, &lifecycle, outages)
                    .await;
            }
            Err(_panic) => {
                tracing::error!(
                    delivery.attempt = attempt,
                    delivery.jobs = jobs,
                    "a task panicked while it handled a delivery; the queue delivers it again"
                );
            }
        }
    }
}

/// Resolves [`SHUTDOWN_GRACE`] after the process began to stop.
async fn shutdown_grace_elapsed(lifecycle: &Lifecycle) {
    lifecycle.stopping().await;
    tokio::time::sleep(SHUTDOWN_GRACE).await;
}

/// Handles and acknowledges one delivery. Fails if the store does not accept the changes for some
/// seconds. The delivery is then dropped, and the queue delivers it again.
pub async fn handle_delivery(context: &Context, delivery: Delivery) -> Result<(), StoreError> {
    let began = tokio::time::Instant::now();
    let mut backoff = Backoff::default();
    // An earlier execution may have made commits that were not confirmed as durable.
    let mut is_repeated = delivery.attempt > 1;
    // A poll would call Facebook again.
    let has_poll = delivery.jobs.iter().any(|job| matches!(job, Job::Poll(_)));
    loop {
        let executed = if delivery.attempt >= POISON_THRESHOLD {
            Box::pin(poison_messages::try_each_job(context, &delivery)).await
        } else {
            Box::pin(execute(context, &delivery.jobs, is_repeated)).await
        };
        match executed {
            Err(error) if error.is_outage() && !has_poll && began.elapsed() < IN_PLACE => {
                tokio::select! {
                    () = context.lifecycle.stopping() => return Err(error),
                    () = backoff.wait() => {}
                }
                is_repeated = true;
            }
            executed => {
                executed?;
                acknowledge(context, delivery).await;
                return Ok(());
            }
        }
    }
}

/// Executes the jobs of a delivery. If the execution is repeated, waits until what the store shows is
/// durable: a job that finds nothing left to change makes no commit of its own. Fails if the store
/// does not accept the changes.
async fn execute(context: &Context, jobs: &[Job], is_repeated: bool) -> Result<(), StoreError> {
    match apply_jobs(context, jobs).await {
        // One of the jobs needs stored data that this build cannot read.
        Err(StoreError::Unexpected(_)) => apply_each_job(context, jobs).await?,
        applied => applied?,
    }
    if is_repeated {
        context.store.confirm().await?;
    }
    Ok(())
}

/// Returns whether the store accepts a write again within [`IN_PLACE`], or the process is stopping.
/// Then only the delivery that failed is given back, and the others go on.
pub(crate) async fn recovers_soon(context: &Context) -> bool {
    let began = tokio::time::Instant::now();
    let mut backoff = Backoff::default();
    while began.elapsed() < IN_PLACE {
        tokio::select! {
            () = context.lifecycle.stopping() => return true,
            () = backoff.wait() => {}
        }
        if context.store.confirm().await.is_ok() {
            return true;
        }
    }
    false
}
