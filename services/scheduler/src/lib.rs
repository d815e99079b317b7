//! The scheduler: publishes the polls that are due, and nothing else.
//!
//! Invariants: a claim moves a due time by a lease and never removes it, so what a crash loses between
//! claim and publish comes back by itself; a lane is claimed only while its queue is short and
//! Facebook answers calls. Any number of schedulers may run at once: no two get the same claim. Must
//! not: decide when anything is due, open a token.

use std::sync::Arc;
use std::time::Duration;

use common::backoff::Backoff;
use common::clock::Clock;
use common::lifecycle::Lifecycle;
use common::queue::Queue;
use common::records::throttle;
use common::store::Store;
use common::telemetry::{Label, Metrics};
use model::job::Job;
use model::lane::Lane;
use model::time::Millis;

/// How long a claim stands before what it claimed is due again.
pub const LEASE: Duration = Duration::from_secs(15 * 60);
/// A lane with this many messages waiting gets no more.
pub const DEPTH: u64 = 1000;
/// Claims taken at once.
const BATCH: usize = 100;
/// Entries of the due index that are looked at before the broker is asked: more than one, so that one
/// of a newer version does not hide the rest.
const LOOK: usize = 16;
/// Between two looks at the due index.
const TICK: Duration = Duration::from_millis(200);

/// What a scheduler works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where polls go.
    pub queue: Arc<dyn Queue>,
    /// Where the due index is.
    pub store: Arc<dyn Store>,
    /// Counts.
    pub metrics: Metrics,
    /// Says what is due.
    pub clock: Clock,
}

/// Publishes until the process is asked to end.
pub async fn run(parts: Parts, lifecycle: Lifecycle) -> Result<(), String> {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            biased;
            () = lifecycle.stopping() => return Ok(()),
            _ = tick.tick() => {}
        }
        match round(&parts, &lifecycle).await {
            Ok(()) => backoff.reset(),
            Err(reason) => {
                tracing::warn!(reason, "cannot publish what is due");
                tokio::select! {
                    () = lifecycle.stopping() => return Ok(()),
                    () = backoff.wait() => {}
                }
            }
        }
    }
}

/// One look at both lanes.
async fn round(parts: &Parts, lifecycle: &Lifecycle) -> Result<(), String> {
    let now = parts.clock.now();
    let app = throttle::find(&*parts.store, throttle::APP).await;
    let app = app.map_err(|error| error.to_string())?;
    for (lane, open_from) in [
        (Lane::PollsNow, app.closed_until),
        (Lane::PollsDaily, app.closed_until.max(app.deferred_until)),
    ] {
        if open_from <= now {
            while publish(parts, lifecycle, lane, now).await? == BATCH {}
        }
    }
    Ok(())
}

/// Publishes at most [`BATCH`] of what is due in a lane; says how many.
async fn publish(
    parts: &Parts,
    lifecycle: &Lifecycle,
    lane: Lane,
    now: Millis,
) -> Result<usize, String> {
    // Looked at first: most of the time nothing is due, and the broker need not be asked.
    let next = parts
        .store
        .due(lane, LOOK)
        .await
        .map_err(|error| error.to_string())?;
    if next.iter().all(|(_, at)| *at > now) {
        return Ok(0);
    }
    let depth = parts
        .queue
        .depth(lane)
        .await
        .map_err(|error| error.to_string())?;
    if depth.messages >= DEPTH {
        return Ok(0);
    }
    let claims = parts.store.claim_due(lane, now, LEASE, BATCH).await;
    let jobs: Vec<Job> = claims
        .map_err(|error| error.to_string())?
        .into_iter()
        .map(Job::Poll)
        .collect();
    if jobs.is_empty() {
        return Ok(0);
    }
    // Somebody waits for them: a lease is for crashes. They stay in hand until the queue takes them.
    let mut backoff = Backoff::default();
    while let Err(error) = parts.queue.publish(lane, &jobs).await {
        tracing::warn!(error = %error, polls = jobs.len(), "claimed polls are not published yet");
        tokio::select! {
            () = lifecycle.stopping() => return Err("stopped with claims in hand".to_owned()),
            () = backoff.wait() => {}
        }
    }
    let published = parts
        .metrics
        .polls_published
        .get_or_create(&Label { name: lane.name() });
    published.inc_by(jobs.len() as u64);
    Ok(jobs.len())
}
