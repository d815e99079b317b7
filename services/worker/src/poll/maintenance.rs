//! Maintenance that accompanies the check of the app subscription: alerts before connections
//! expire, the removal of erased data from the disk, and the deletion of old counts. It runs at the
//! start of a worker, after a login, and every day.

use std::time::Duration;

use common::records::connection::{self, Connection};
use common::records::dead_letter::usage;
use common::records::expiry::{self, ALERT_DAYS};
use common::records::{dropped, missed_webhooks};
use common::store::StoreError;
use model::time::HostTime;

use super::connection_update::{DueUpdate, update_connection};
use super::token_inspection::add_missing;
use crate::context::Context;
use crate::erasure;

/// Runs the maintenance. Fails if the store does not answer.
pub(super) async fn maintain(context: &Context) -> Result<(), StoreError> {
    let connections = connection::list(&*context.store).await?;
    add_missing(context, &connections).await?;
    warn_about_expiry(context, &connections).await?;
    // Redis may need minutes, and the poll of the app must not wait for it.
    let scrubbing = context.clone();
    tokio::spawn(async move { erasure::scrub(&scrubbing).await });
    let store = context.store.clone();
    tokio::spawn(async move {
        if let Err(error) = store.correct_page_indexes().await {
            tracing::warn!(error = %error, "the numbers of Pages by status could not be corrected; this is tried again within a day");
        }
    });
    let retention = Duration::from_secs(missed_webhooks::DAYS as u64 * 24 * 3600);
    let retention = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
    let oldest = HostTime(context.clock.now().0.saturating_sub(retention));
    let oldest = context.daily_schedule.local_day(oldest);
    missed_webhooks::prune(&*context.store, &oldest).await?;
    dropped::prune(&*context.store, &oldest).await?;
    usage::prune(&*context.store).await
}

/// Counts the connections that expire within each number of days in [`ALERT_DAYS`], and logs each
/// alert once per connection.
async fn warn_about_expiry(
    context: &Context,
    connections: &[Connection],
) -> Result<(), StoreError> {
    let now = context.clock.now();
    let mut counts = ALERT_DAYS.map(|_| 0);
    for connection in connections {
        let Some(days_left) = expiry::days_left(connection, now) else {
            continue;
        };
        for (count, days) in counts.iter_mut().zip(ALERT_DAYS) {
            *count += i64::from(days_left <= days);
        }
        let alert = ALERT_DAYS
            .into_iter()
            .filter(|days| days_left <= *days)
            .min();
        let Some(alert) = alert.filter(|alert| {
            connection
                .last_expiry_alert
                .is_none_or(|last| *alert < last)
        }) else {
            continue;
        };
        let alerted = update_connection(
            context,
            &connection.user,
            None,
            DueUpdate::Unchanged,
            |stored, _, _| {
                // A login may have changed the expiry meanwhile.
                let is_unchanged = expiry::days_left(stored, now) == Some(days_left);
                let is_new =
                    is_unchanged && stored.last_expiry_alert.is_none_or(|last| alert < last);
                stored.last_expiry_alert = Some(alert);
                is_new
            },
        )
        .await?;
        if alerted.is_some() {
            tracing::warn!(
                connection = %connection.user,
                token.days_left = days_left,
                token.alert = alert,
                "a connection expires soon: `pagesync connection list --expiring 14d` shows the Pages that depend on it, `pagesync connection invite` prints the address for a new login"
            );
        }
    }
    let names = ["14", "7", "3", "1"];
    for (count, name) in counts.into_iter().zip(names) {
        context.metrics.connections_expiring.set(name, count);
    }
    Ok(())
}
