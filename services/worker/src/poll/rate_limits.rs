//! Facebook's limits: before a call, whether they are used up; after it, what it said of them.

use std::time::Duration;

use common::graph::error::{GraphError, RateLimitScope};
use common::records::rate_limit;
use common::store::StoreError;
use common::timestamp::rfc3339;
use model::id::{PageId, UserId};
use model::queue_name::QueueName;
use model::time::HostTime;

use crate::context::Context;

/// Who a call is made for: its buckets are the app's and these.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CallBudget<'a> {
    pub(super) user: Option<&'a UserId>,
    pub(super) page: Option<&'a PageId>,
}

impl CallBudget<'_> {
    fn bucket(&self, limit: RateLimitScope) -> String {
        match (limit, self.user, self.page) {
            (RateLimitScope::App, _, _) | (_, None, None) => rate_limit::APP_BUCKET.to_owned(),
            (RateLimitScope::User, Some(user), _) | (RateLimitScope::Page, Some(user), None) => {
                rate_limit::user_bucket(user)
            }
            (_, _, Some(page)) => rate_limit::page_bucket(page),
        }
    }
}

/// What a person should know of it.
pub(super) fn blocked_message(until: HostTime) -> String {
    format!("Facebook limits calls until {}", rfc3339(until))
}

/// Until when no call may be made; `None`: now.
pub(super) async fn blocked_until(
    context: &Context,
    whose: CallBudget<'_>,
    queue_name: QueueName,
) -> Result<Option<HostTime>, StoreError> {
    let now = context.clock.now();
    let mut buckets: Vec<String> = [
        RateLimitScope::App,
        RateLimitScope::User,
        RateLimitScope::Page,
    ]
    .map(|limit| whose.bucket(limit))
    .to_vec();
    buckets.dedup();
    let until = rate_limit::blocked_until(&*context.store, buckets, queue_name, now).await?;
    let jitter = Duration::from_millis(fastrand::u64(0..30_000));
    Ok(until.map(|until| until.plus(jitter)))
}

/// Remembers what answers said of limits, and that a call was refused for one; counts what the
/// attempt came to. Answers with when calls are possible again, if it was refused for a limit.
pub(super) async fn record_reply(
    context: &Context,
    whose: CallBudget<'_>,
    error: Option<&GraphError>,
) -> Result<Option<HostTime>, StoreError> {
    let now = context.clock.now();
    let mismatches = context.graph.take_version_mismatches();
    let metrics = &context.metrics;
    metrics.graph_replies.add("another_version", mismatches);
    for (bucket, usage) in context.graph.take_usage() {
        if usage.percent < rate_limit::DEFER_PERCENT {
            continue;
        }
        let note =
            |stored: rate_limit::RateLimit| stored.after_usage(now, usage.percent, usage.regain);
        if rate_limit::update(&*context.store, &bucket, now, note)
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
    context
        .metrics
        .graph_replies
        .count(error.map_or("ok", GraphError::metric_label));
    let Some(GraphError::RateLimited { bucket, wait }) = error else {
        return Ok(None);
    };
    let bucket = whose.bucket(*bucket);
    let close = |stored: rate_limit::RateLimit| Some(stored.after_refusal(now, *wait));
    let closed = rate_limit::update(&*context.store, &bucket, now, close).await?;
    let until = closed.map_or(now, |closed| closed.blocked_until);
    tracing::warn!(
        bucket,
        until = rfc3339(until),
        "Facebook refuses more calls"
    );
    Ok(Some(until))
}
