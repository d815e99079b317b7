//! The scheduler: publishes the polls that are due, and nothing else.
//!
//! Invariants: a claim moves a due time by a lease and never removes it, so what a crash loses between
//! claim and publish comes back by itself; a queue is claimed only while its queue is short and
//! Facebook answers calls. Any number of schedulers may run at once: no two get the same claim. Must
//! not: decide when anything is due, open a token.

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

/// How long a claim stands before what it claimed is due again.
pub const LEASE: Duration = Duration::from_secs(15 * 60);
/// A queue with this many messages waiting gets no more.
pub const MAX_QUEUE_DEPTH: u64 = 1000;
/// Claims taken at once.
const BATCH: usize = 100;
/// Entries of the due index that are looked at before the broker is asked: more than one, so that one
/// of a newer version does not hide the rest.
const PEEK_LIMIT: usize = 16;
/// Between two looks at the due index.
const TICK_INTERVAL: Duration = Duration::from_millis(200);

/// What a scheduler works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where polls go.
    pub queue: Arc<dyn Queue>,
    /// Where the due index is.
    pub store: Arc<dyn Store>,
    /// Counts.
    pub metrics: Metrics,
    /// Says what is due.
    pub clock: Clock,
}

/// Why due polls could not be published.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue did not answer.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The process is stopping. The claims that were not published are due again after [`LEASE`].
    #[error("stopped before the claimed polls were published")]
    Stopped,
}

/// Publishes until the process is asked to end.
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
                tracing::warn!(error = %error, "cannot publish the polls that are due");
                tokio::select! {
                    () = lifecycle.stopping() => return Ok(()),
                    () = backoff.wait() => {}
                }
            }
        }
    }
}

/// One look at both queues.
async fn publish_due(context: &Context, lifecycle: &Lifecycle) -> Result<(), PublishError> {
    let now = context.clock.now();
    let app = rate_limit::find(&*context.store, rate_limit::APP_BUCKET).await;
    let app = app?;
    for (queue_name, open_from) in [
        (QueueName::PollsNow, app.blocked_until),
        (
            QueueName::PollsDaily,
            app.blocked_until.max(app.deferred_until),
        ),
    ] {
        if open_from <= now {
            while publish_batch(context, lifecycle, queue_name, now).await? == BATCH {}
        }
    }
    Ok(())
}

/// Publishes at most [`BATCH`] of what is due in a queue; says how many.
async fn publish_batch(
    context: &Context,
    lifecycle: &Lifecycle,
    queue_name: QueueName,
    now: HostTime,
) -> Result<usize, PublishError> {
    // Looked at first: most of the time nothing is due, and the broker need not be asked.
    let next = context.store.next_due(queue_name, PEEK_LIMIT).await?;
    if next.iter().all(|(_, at)| *at > now) {
        return Ok(0);
    }
    let depth = context.queue.depth(queue_name).await?;
    if depth.messages >= MAX_QUEUE_DEPTH {
        return Ok(0);
    }
    let claims = context.store.claim_due(queue_name, now, LEASE, BATCH).await;
    let jobs: Vec<Job> = claims?.into_iter().map(Job::Poll).collect();
    if jobs.is_empty() {
        return Ok(0);
    }
    // Somebody waits for them: a lease is for crashes. They stay in hand until the queue takes them.
    let mut backoff = Backoff::default();
    while let Err(error) = context.queue.publish(queue_name, &jobs).await {
        tracing::warn!(error = %error, polls = jobs.len(), "claimed polls are not published yet");
        tokio::select! {
            () = lifecycle.stopping() => return Err(PublishError::Stopped),
            () = backoff.wait() => {}
        }
    }
    let metrics = &context.metrics;
    metrics
        .polls_published
        .add(queue_name.as_str(), jobs.len() as u64);
    Ok(jobs.len())
}
