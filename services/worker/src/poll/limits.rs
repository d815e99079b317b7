//! Facebook's limits: before a call, whether they are used up; after it, what it said of them.

use std::time::Duration;

use common::graph::error::{GraphError, Limit};
use common::records::{throttle, write};
use common::store::StoreError;
use model::id::{PageId, UserId};
use model::lane::Lane;
use model::time::Millis;

use crate::Parts;

/// Who a call is made for: its buckets are the app's and these.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Whose<'a> {
    pub(super) user: Option<&'a UserId>,
    pub(super) page: Option<&'a PageId>,
}

impl Whose<'_> {
    fn bucket(&self, limit: Limit) -> String {
        match (limit, self.user, self.page) {
            (Limit::User, Some(user), _) => format!("user:{user}"),
            (Limit::Page, _, Some(page)) => format!("page:{page}"),
            _ => throttle::APP.to_owned(),
        }
    }
}

/// Until when no call may be made; `None`: now.
pub(super) async fn closed(
    parts: &Parts,
    whose: Whose<'_>,
    lane: Lane,
) -> Result<Option<Millis>, StoreError> {
    let now = parts.clock.now();
    let mut until = Millis(0);
    let mut buckets: Vec<String> = [Limit::App, Limit::User, Limit::Page]
        .map(|limit| whose.bucket(limit))
        .to_vec();
    buckets.dedup();
    for bucket in buckets {
        let held = throttle::find(&*parts.store, &bucket).await?;
        until = until.max(held.closed_until);
        if lane == Lane::PollsDaily {
            until = until.max(held.deferred_until);
        }
    }
    let jitter = Duration::from_millis(fastrand::u64(0..30_000));
    Ok((until > now).then(|| until.plus(jitter)))
}

/// Remembers what answers said of limits, and that a call was refused for one. Answers with when
/// calls are possible again, if it was.
pub(super) async fn note(
    parts: &Parts,
    whose: Whose<'_>,
    error: Option<&GraphError>,
) -> Result<Option<Millis>, StoreError> {
    let now = parts.clock.now();
    for (bucket, usage) in parts.graph.take_usage() {
        if usage.percent < throttle::DEFER_AT {
            continue;
        }
        let held = throttle::find(&*parts.store, &bucket).await?;
        if let Some(next) = held.noted(now, usage.percent, usage.regain) {
            tracing::warn!(
                bucket,
                percent = usage.percent,
                "a limit of Facebook's is nearly used up"
            );
            write(&*parts.store, vec![next.write(&bucket)]).await?;
        }
    }
    let Some(GraphError::Throttled { bucket, wait }) = error else {
        return Ok(None);
    };
    let bucket = whose.bucket(*bucket);
    let next = throttle::find(&*parts.store, &bucket)
        .await?
        .closed(now, *wait);
    tracing::warn!(bucket, until = %next.closed_until, "Facebook refuses more calls");
    write(&*parts.store, vec![next.write(&bucket)]).await?;
    Ok(Some(next.closed_until))
}
