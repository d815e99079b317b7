//! The scheduler: publishes polls when they are due, and tells the operator of problems ([`alerts`]).
//!
//! Invariants: a claim moves the due time of its subject to the end of a lease and never removes
//! it, so if a claim is lost in a crash, its subject is due again when the lease ends. A queue
//! receives polls only while fewer of them wait than the live workers make in two turns, and while
//! the rate limit of the app allows calls. Any number of schedulers may run at once; no two of them get the same
//! claim. The scheduler does not decide when a subject is due, and it opens no token.

pub mod alerts;

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
use common::store_clock;
use common::telemetry::Metrics;
use model::job::Job;
use model::queue_name::QueueName;
use model::time::HostTime;

/// How long a claim is valid. Its subject is due again afterwards.
pub const LEASE: Duration = Duration::from_secs(15 * 60);
/// How many times as many polls may wait in a queue as the live workers make at a time. A longer
/// queue would hold up the polls that become due meanwhile.
pub const WAITING_TURNS: u64 = 2;
/// The maximum number of polls that are claimed and published together.
const BATCH_SIZE: usize = 100;
/// The time between two reads of the due index.
const TICK_INTERVAL: Duration = Duration::from_millis(200);
/// The time between two reads of the due index while a queue has no room for further polls.
const FULL_INTERVAL: Duration = Duration::from_millis(20);
/// The time between two searches for due times that a wrong clock has written.
const PULL_BACK_INTERVAL: Duration = Duration::from_secs(60);
/// The difference from the clock of the store above which no due time is corrected.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(3600);

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
    /// How many polls of each queue a worker makes at a time.
    pub poll_concurrency: u16,
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
    let mut pull_back = tokio::time::interval(PULL_BACK_INTERVAL);
    pull_back.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut backoff = Backoff::default();
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            () = lifecycle.stopping() => return Ok(()),
            _ = pull_back.tick() => pull_back_due_times(&context).await,
            () = tokio::time::sleep(pause) => {}
        }
        match publish_due(&context, &lifecycle).await {
            Ok(is_full) => {
                backoff.reset();
                pause = if is_full {
                    FULL_INTERVAL
                } else {
                    TICK_INTERVAL
                };
            }
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

/// Makes the subjects due now whose due time lies too far ahead.
async fn pull_back_due_times(context: &Context) {
    // If the clock of the store is far behind, right due times look wrong.
    let difference = store_clock::difference(&*context.store, &context.clock).await;
    if difference.map_or(true, |millis| {
        u128::from(millis.unsigned_abs()) > MAX_CLOCK_DIFFERENCE.as_millis()
    }) {
        return;
    }
    match context.store.pull_back_due_times().await {
        Ok(0) => {}
        Ok(subjects) => {
            tracing::error!(
                subjects,
                "due times lay more than two days ahead, and are due now: the clock of a host or of the store was wrong"
            );
        }
        // The next search is made in any case.
        Err(error) => tracing::debug!(error = %error, "cannot search for wrong due times"),
    }
}

/// The result of [`publish_batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batch {
    /// Nothing else is due, or no worker receives from the queue.
    Complete,
    /// Further subjects may be due.
    Partial,
    /// The queue has no room for further polls.
    Full,
}

/// Publishes the due polls of all queues, except those that the rate limit of the app delays.
/// Returns whether a queue had no room for all of them.
/// Fails if the store does not answer, if the depth of a queue cannot be read, or if the process
/// stops before the claimed polls were published.
async fn publish_due(context: &Context, lifecycle: &Lifecycle) -> Result<bool, PublishError> {
    // One batch of each queue at a time, so that a long queue delays neither the others nor the
    // effect of a rate limit.
    loop {
        let now = context.clock.now();
        let app_limit = rate_limit::find(&*context.store, rate_limit::APP_BUCKET, now).await?;
        let mut batches = Vec::new();
        for queue_name in QueueName::POLLS {
            if app_limit.allowed_from(queue_name) <= now && !lifecycle.is_stopping() {
                batches.push(publish_batch(context, lifecycle, queue_name, now).await?);
            }
        }
        if !batches.contains(&Batch::Partial) {
            return Ok(batches.contains(&Batch::Full));
        }
    }
}

/// Claims at most [`BATCH_SIZE`] due subjects of a queue, and no more than it has room for, and
/// publishes their polls.
async fn publish_batch(
    context: &Context,
    lifecycle: &Lifecycle,
    queue_name: QueueName,
    now: HostTime,
) -> Result<Batch, PublishError> {
    // Most of the time nothing is due. The due index is read first, so that the depth of the queue
    // is queried only if a poll is due.
    // The entry may be of a subject that this build does not know. It is claimed, too, so that it
    // does not stay in front of the others.
    let earliest = context.store.next_due(queue_name, 1).await?;
    if earliest.first().is_none_or(|entry| entry.due_at > now) {
        return Ok(Batch::Complete);
    }
    let depth = context.queue.depth(queue_name).await?;
    // Before the first worker has started, the queue is filled for one.
    let workers = depth.consumers.max(1);
    let max_waiting = WAITING_TURNS * workers * u64::from(context.poll_concurrency);
    let room = usize::try_from(max_waiting.saturating_sub(depth.messages)).unwrap_or(BATCH_SIZE);
    if room == 0 {
        // Without a worker, the room does not change soon.
        let has_worker = depth.consumers > 0;
        return Ok(if has_worker {
            Batch::Full
        } else {
            Batch::Complete
        });
    }
    let max_claims = room.min(BATCH_SIZE);
    let claimed = context
        .store
        .claim_due(queue_name, now, LEASE, max_claims)
        .await?;
    let batch = if claimed.len() < max_claims {
        Batch::Complete
    } else {
        Batch::Partial
    };
    if !claimed.unknown.is_empty() {
        let unknown = claimed.unknown.len();
        tracing::error!(queue_name = %queue_name, subjects = unknown, "the due index contains subjects that this build does not know; they are not polled: start the version of pagesync that wrote them, or a newer one");
        let metric = &context.metrics.unknown_subjects;
        metric.add(queue_name.as_str(), unknown as u64);
    }
    let jobs: Vec<Job> = claimed.claims.into_iter().map(Job::Poll).collect();
    if jobs.is_empty() {
        return Ok(batch);
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
    Ok(batch)
}
