//! What is looked after whenever the app's own subscription is, at each start and every day: tokens that
//! end soon, erasures that are not off the disk yet, numbers nobody needs any more.

use std::time::Duration;

use common::records::forecast::{self, ALERTS};
use common::records::{connection, drift};
use common::store::StoreError;
use common::telemetry::Label;
use model::time::Millis;

use super::change::{Due, update};
use crate::{Parts, forget};

pub(super) async fn care(parts: &Parts) -> Result<(), StoreError> {
    warn_of_ends(parts).await?;
    forget::scrub(parts).await;
    let kept = Duration::from_secs(drift::DAYS as u64 * 24 * 3600);
    let kept = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
    let first = Millis(parts.clock.now().0.saturating_sub(kept));
    drift::prune(&*parts.store, &parts.days.day(first)).await
}

/// Counts the connections that end within each of [`ALERTS`], and says so once for each.
async fn warn_of_ends(parts: &Parts) -> Result<(), StoreError> {
    let now = parts.clock.now();
    let mut within = ALERTS.map(|_| 0);
    for connection in connection::list(&*parts.store).await? {
        let Some(left) = forecast::days_left(&connection, now) else {
            continue;
        };
        for (count, days) in within.iter_mut().zip(ALERTS) {
            *count += i64::from(left <= days);
        }
        let alert = ALERTS.into_iter().filter(|days| left <= *days).min();
        let Some(alert) = alert.filter(|alert| connection.alerted.is_none_or(|last| *alert < last))
        else {
            continue;
        };
        let said = update(parts, &connection.user, None, Due::Leave, |held, _, _| {
            // A login may have come meanwhile, with another end.
            let still = forecast::days_left(held, now) == Some(left);
            let is_new = still && held.alerted.is_none_or(|last| alert < last);
            held.alerted = Some(alert);
            is_new
        })
        .await?;
        if said.is_some() {
            tracing::warn!(
                connection = %connection.user,
                token.days_left = left,
                token.alert = alert,
                "a login ends soon: `pagesync token forecast` says what goes with it, `pagesync connect url` gives the address to log in again"
            );
        }
    }
    let names = ["14", "7", "3", "1"];
    for (count, name) in within.into_iter().zip(names) {
        let gauge = parts.metrics.tokens_ending.get_or_create(&Label { name });
        gauge.set(count);
    }
    Ok(())
}
