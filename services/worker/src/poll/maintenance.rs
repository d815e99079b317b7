//! What is looked after whenever the app's own subscription is, at each start and every day: tokens that
//! end soon, erasures that are not off the disk yet, numbers nobody needs any more.

use std::time::Duration;

use common::records::expiry::{self, ALERT_DAYS};
use common::records::{connection, missed_webhooks};
use common::store::StoreError;
use model::time::HostTime;

use super::connection_update::{Due, update};
use crate::context::Context;
use crate::erasure;

pub(super) async fn maintain(context: &Context) -> Result<(), StoreError> {
    warn_about_expiry(context).await?;
    erasure::scrub(context).await;
    let kept = Duration::from_secs(missed_webhooks::DAYS as u64 * 24 * 3600);
    let kept = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
    let first = HostTime(context.clock.now().0.saturating_sub(kept));
    missed_webhooks::prune(&*context.store, &context.daily_schedule.local_day(first)).await
}

/// Counts the connections that end within each of [`ALERTS`], and says so once for each.
async fn warn_about_expiry(context: &Context) -> Result<(), StoreError> {
    let now = context.clock.now();
    let mut within = ALERT_DAYS.map(|_| 0);
    for connection in connection::list(&*context.store).await? {
        let Some(left) = expiry::days_left(&connection, now) else {
            continue;
        };
        for (count, days) in within.iter_mut().zip(ALERT_DAYS) {
            *count += i64::from(left <= days);
        }
        let alert = ALERT_DAYS.into_iter().filter(|days| left <= *days).min();
        let Some(alert) = alert.filter(|alert| {
            connection
                .last_expiry_alert
                .is_none_or(|last| *alert < last)
        }) else {
            continue;
        };
        let said = update(
            context,
            &connection.user,
            None,
            Due::Keep,
            |stored, _, _| {
                // A login may have come meanwhile, with another end.
                let still = expiry::days_left(stored, now) == Some(left);
                let is_new = still && stored.last_expiry_alert.is_none_or(|last| alert < last);
                stored.last_expiry_alert = Some(alert);
                is_new
            },
        )
        .await?;
        if said.is_some() {
            tracing::warn!(
                connection = %connection.user,
                token.days_left = left,
                token.alert = alert,
                "a login ends soon: `pagesync connection list --expiring 14d` says what goes with it, `pagesync connection invite` gives the address to log in again"
            );
        }
    }
    let names = ["14", "7", "3", "1"];
    for (count, name) in within.into_iter().zip(names) {
        context.metrics.connections_expiring.set(name, count);
    }
    Ok(())
}
