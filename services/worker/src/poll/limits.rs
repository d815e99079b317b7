//! Facebook's limits: before a call, whether they are used up; after it, what it said of them.

use std::time::Duration;

use common::graph::error::{GraphError, Limit};
use common::pages::rfc3339;
use common::records::throttle;
use common::store::StoreError;
use common::telemetry::{Label, Metrics};
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
            (Limit::App, _, _) | (_, None, None) => throttle::APP.to_owned(),
            (Limit::User, Some(user), _) | (Limit::Page, Some(user), None) => throttle::user(user),
            (_, _, Some(page)) => throttle::page(page),
        }
    }
}

/// What a person should know of it.
pub(super) fn sentence(until: Millis) -> String {
    format!("Facebook limits calls until {}", rfc3339(until))
}

/// Until when no call may be made; `None`: now.
pub(super) async fn closed(
    parts: &Parts,
    whose: Whose<'_>,
    lane: Lane,
) -> Result<Option<Millis>, StoreError> {
    let now = parts.clock.now();
    let mut buckets: Vec<String> = [Limit::App, Limit::User, Limit::Page]
        .map(|limit| whose.bucket(limit))
        .to_vec();
    buckets.dedup();
    let until = throttle::closed(&*parts.store, buckets, lane, now).await?;
    let jitter = Duration::from_millis(fastrand::u64(0..30_000));
    Ok(until.map(|until| until.plus(jitter)))
}

/// Remembers what answers said of limits, and that a call was refused for one; counts what the
/// attempt came to. Answers with when calls are possible again, if it was refused for a limit.
pub(super) async fn note(
    parts: &Parts,
    whose: Whose<'_>,
    error: Option<&GraphError>,
) -> Result<Option<Millis>, StoreError> {
    let now = parts.clock.now();
    let other = Label {
        name: "another_version",
    };
    parts
        .metrics
        .graph
        .get_or_create(&other)
        .inc_by(parts.graph.take_other_version());
    for (bucket, usage) in parts.graph.take_usage() {
        if usage.percent < throttle::DEFER_AT {
            continue;
        }
        let note = |held: throttle::Throttle| held.noted(now, usage.percent, usage.regain);
        if throttle::update(&*parts.store, &bucket, now, note)
            .await?
            .is_some()
        {
            tracing::warn!(
                bucket,
                percent = usage.percent,
                "a limit of Facebook's is nearly used up"
            );
        }
    }
    Metrics::count(&parts.metrics.graph, error.map_or("ok", GraphError::class));
    let Some(GraphError::Throttled { bucket, wait }) = error else {
        return Ok(None);
    };
    let bucket = whose.bucket(*bucket);
    let close = |held: throttle::Throttle| Some(held.closed(now, *wait));
    let closed = throttle::update(&*parts.store, &bucket, now, close).await?;
    let until = closed.map_or(now, |closed| closed.closed_until);
    tracing::warn!(
        bucket,
        until = rfc3339(until),
        "Facebook refuses more calls"
    );
    Ok(Some(until))
}
