//! The scheduler: publishes polls when they are due.
//!
//! Invariants: a claim moves the due time of its subject to the end of a lease and never removes
//! it, so if a claim is lost in a crash, its subject is due again when the lease ends. A queue
//! receives polls only while it has fewer than [`MAX_QUEUE_DEPTH`] messages and the rate limit of
//! the app allows calls. Any number of schedulers may run at once; no two of them get the same
//! claim. The scheduler does not decide when a subject is due, and it opens no token.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::clock::Clock;
use common::lifecycle::Lifecycle;
use common::queue::Queue;
use common::queue::error::QueueError;
use common::records::rate_limit;
use common::retry::Backoff;
use common::store::{Store, StoreError};
use common::telemetry::Metrics;
use model::job::Job;
use model::queue_name::QueueName;
use model::time::HostTime;

/// How long a claim is valid. Its subject is due again afterwards.
pub const LEASE: Duration = Duration::from_secs(15 * 60);
/// A queue that has this many waiting messages or more receives no polls.
pub const MAX_QUEUE_DEPTH: u64 = 1000;
/// The maximum number of polls that are claimed and published together.
const BATCH_SIZE: usize = 100;
/// The time between two reads of the due index.
const TICK_INTERVAL: Duration = Duration::from_millis(200);

/// Everything that a scheduler uses.
#[derive(Debug, Clone)]
pub struct Context {
    /// The queue to which polls are published.
    pub queue: Arc<dyn Queue>,
    /// The store with the due index.
    pub store: Arc<dyn Store>,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// This host's clock.
    pub clock: Clock,
}

/// The reason why due polls could not be published.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue did not answer.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The process is stopping. The subjects of the unpublished claims are due again after
    /// [`LEASE`].
    #[error("stopped before the claimed polls were published")]
    Stopped,
}

/// Publishes due polls until the process is stopping.
pub async fn run(context: Context, lifecycle: Lifecycle) -> Result<(), Infallible> {
    let mut tick = tokio::time::interval(TICK_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            biased;
            () = lifecycle.stopping() => return Ok(()),
            _ = tick.tick() => {}
        }
        match publish_due(&context, &lifecycle).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                tracing::warn!(error = %error, "cannot publish the due polls");
                tokio::select! {
                    () = lifecycle.stopping() => return Ok(()),
                    () = backoff.wait() => {}
                }
            }
        }
    }
}

/// Publishes the due polls of both queues, except those that the rate limit of the app delays.
/// Fails if the store does not answer, if the depth of a queue cannot be read, or if the process
/// stops before the claimed polls were published.
async fn publish_due(context: &Context, lifecycle: &Lifecycle) -> Result<(), PublishError> {
    let now = context.clock.now();
    let app_limit = rate_limit::find(&*context.store, rate_limit::APP_BUCKET).await;
    let app_limit = app_limit?;
    for (queue_name, allowed_from) in [
        (QueueName::PollsNow, app_limit.blocked_until),
        (
            QueueName::PollsDaily,
            app_limit.blocked_until.max(app_limit.deferred_until),
        ),
    ] {
        if allowed_from <= now {
            while !lifecycle.is_stopping()
                && publish_batch(context, lifecycle, queue_name, now).await? == BATCH_SIZE
            {
            }
        }
    }
    Ok(())
}

/// Claims at most [`BATCH_SIZE`] due subjects of a queue and publishes their polls. Returns how many
/// were claimed.
async fn publish_batch(
    context: &Context,
    lifecycle: &Lifecycle,
    queue_name: QueueName,
    now: HostTime,
) -> Result<usize, PublishError> {
    // Most of the time nothing is due. The due index is read first, so that the depth of the queue
    // is queried only if a poll is due.
    // The entry may be of a subject that this build does not know. It is claimed, too, so that it
    // does not stay in front of the others.
    let earliest = context.store.next_due(queue_name, 1).await?;
    if earliest.first().is_none_or(|entry| entry.due_at > now) {
        return Ok(0);
    }
    let depth = context.queue.depth(queue_name).await?;
    if depth.messages >= MAX_QUEUE_DEPTH {
        return Ok(0);
    }
    let claimed = context
        .store
        .claim_due(queue_name, now, LEASE, BATCH_SIZE)
        .await?;
    let count = claimed.len();
    if !claimed.unknown.is_empty() {
        let unknown = claimed.unknown.len();
        tracing::error!(queue_name = %queue_name, subjects = unknown, "the due index contains subjects that this build does not know; they are not polled: start the version of pagesync that wrote them, or a newer one");
        let metric = &context.metrics.unknown_subjects;
        metric.add(queue_name.as_str(), unknown as u64);
    }
    let jobs: Vec<Job> = claimed.claims.into_iter().map(Job::Poll).collect();
    if jobs.is_empty() {
        return Ok(count);
    }
    // A claimed subject is not claimed again until its lease ends, so a failed publish is retried
    // here without waiting for the lease.
    let mut backoff = Backoff::default();
    while let Err(error) = context.queue.publish(queue_name, &jobs).await {
        tracing::warn!(error = %error, polls = jobs.len(), "cannot publish the claimed polls");
        tokio::select! {
            () = lifecycle.stopping() => return Err(PublishError::Stopped),
            () = backoff.wait() => {}
        }
    }
    let metrics = &context.metrics;
    metrics
        .polls_published
        .add(queue_name.as_str(), jobs.len() as u64);
    Ok(count)
}
