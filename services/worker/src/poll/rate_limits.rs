//! The rate limits of Facebook: checks whether a call may be made, and records the usage and the
//! refusals that replies report.
//!
//! Invariant: the limits are stored, so that all workers and schedulers observe the same ones.

use std::time::Duration;

use common::graph::error::{ErrorKind, GraphError, RateLimitScope};
use common::records::rate_limit;
use common::store::StoreError;
use common::timestamp::rfc3339;
use model::id::{PageId, UserId};
use model::queue_name::QueueName;
use model::time::HostTime;

use crate::context::Context;

/// The person and the Page for which a call is made. The call counts against their rate limits and
/// against that of the app.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CallScope<'a> {
    /// The person whose token is used.
    pub(super) user: Option<&'a UserId>,
    /// The Page that is read or subscribed.
    pub(super) page: Option<&'a PageId>,
}

impl CallScope<'_> {
    /// Returns the name of the bucket against which the call counts in `scope`.
    fn bucket(&self, scope: RateLimitScope) -> String {
        match (scope, self.user, self.page) {
            (RateLimitScope::App, _, _) | (_, None, None) => rate_limit::APP_BUCKET.to_owned(),
            (RateLimitScope::User, Some(user), _) | (RateLimitScope::Page, Some(user), None) => {
                rate_limit::user_bucket(user)
            }
            (_, _, Some(page)) => rate_limit::page_bucket(page),
        }
    }
}

/// Returns the problem of a connection for which no call may be made before `until`.
pub(super) fn blocked_message(until: HostTime) -> String {
    format!(
        "Facebook's rate limit allows no call until {}",
        rfc3339(until)
    )
}

/// Returns the time before which no call may be made, with up to 30 seconds of jitter, or `None` if
/// calls may be made now. Fails if the store does not answer.
pub(super) async fn blocked_until(
    context: &Context,
    call_scope: CallScope<'_>,
    queue_name: QueueName,
) -> Result<Option<HostTime>, StoreError> {
    let now = context.clock.now();
    let mut buckets: Vec<String> = [
        RateLimitScope::App,
        RateLimitScope::User,
        RateLimitScope::Page,
    ]
    .map(|scope| call_scope.bucket(scope))
    .to_vec();
    buckets.dedup();
    let until = rate_limit::blocked_until(&*context.store, buckets, queue_name, now).await?;
    let jitter = Duration::from_millis(fastrand::u64(0..30_000));
    Ok(until.map(|until| until.plus(jitter)))
}

/// Stores the usage of rate limits that replies reported, and counts the outcome of the attempt. If
/// `error` is a refusal because of a rate limit, stores the refusal and returns when calls are
/// possible again. Fails if the store does not answer.
pub(super) async fn record_reply(
    context: &Context,
    call_scope: CallScope<'_>,
    error: Option<&GraphError>,
) -> Result<Option<HostTime>, StoreError> {
    let now = context.clock.now();
    let mismatches = context.graph.take_version_mismatches();
    let metrics = &context.metrics;
    metrics.graph_replies.add("another_version", mismatches);
    for (bucket, usage) in context.graph.take_usage() {
        if usage.percent < rate_limit::DEFER_DAILY_PERCENT {
            continue;
        }
        let after_usage = |stored: rate_limit::RateLimit| {
            stored.after_usage(now, usage.percent, usage.blocked_for)
        };
        if rate_limit::update(&*context.store, &bucket, now, after_usage)
            .await?
            .is_some()
        {
            tracing::warn!(
                bucket,
                percent = usage.percent,
                "a rate limit of Facebook is nearly used up"
            );
        }
    }
    context
        .metrics
        .graph_replies
        .count(error.map_or("ok", |error| error.kind.metric_label()));
    let Some(ErrorKind::RateLimited { scope, wait }) = error.map(|error| &error.kind) else {
        return Ok(None);
    };
    let bucket = call_scope.bucket(*scope);
    let after_refusal = |stored: rate_limit::RateLimit| Some(stored.after_refusal(now, *wait));
    let updated = rate_limit::update(&*context.store, &bucket, now, after_refusal).await?;
    let until = updated.map_or(now, |updated| updated.blocked_until);
    tracing::warn!(
        bucket,
        until = rfc3339(until),
        "Facebook refused a call because of a rate limit"
    );
    Ok(Some(until))
}
