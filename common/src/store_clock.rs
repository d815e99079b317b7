//! Compares the clock of this host with the clock of the store.
//!
//! Invariant: a difference is only reported. pagesync cannot know which of the two clocks is wrong.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use model::time::HostTime;

use crate::clock::Clock;
use crate::lifecycle::Lifecycle;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

/// The largest difference of the clocks that is not reported.
pub const MAX_DIFFERENCE: Duration = Duration::from_secs(60);
/// The time between two comparisons.
const INTERVAL: Duration = Duration::from_secs(60);

/// Returns the difference of the clocks in milliseconds: positive if this host's clock is ahead of
/// the clock of the store. Fails if the store does not answer.
pub async fn difference(store: &dyn Store, clock: &Clock) -> Result<i64, StoreError> {
    let before = clock.now();
    let remote = store.now().await?;
    let after = clock.now();
    let millis = |at: HostTime| i64::try_from(at.0).unwrap_or(i64::MAX);
    // The store read its clock between the two times.
    let ahead = millis(before) - millis(remote);
    let behind = millis(remote) - millis(after);
    Ok(if ahead > 0 { ahead } else { -behind.max(0) })
}

/// Returns whether a difference, as [`difference`] returns it, is reported.
pub fn is_reported(difference: i64) -> bool {
    u128::from(difference.unsigned_abs()) > MAX_DIFFERENCE.as_millis()
}

/// Compares the clocks every minute until the process is stopping. Sets a metric, and logs an error
/// when a difference begins.
pub async fn watch(
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Metrics,
    lifecycle: Lifecycle,
) -> Result<(), Infallible> {
    let mut interval = tokio::time::interval(INTERVAL);
    let mut was_reported = false;
    loop {
        tokio::select! {
            () = lifecycle.stopping() => return Ok(()),
            _ = interval.tick() => {}
        }
        // A store that does not answer is reported by those who need it.
        let Ok(difference) = difference(&*store, &clock).await else {
            continue;
        };
        metrics
            .store_clock_difference_seconds
            .set(difference / 1000);
        if is_reported(difference) && !was_reported {
            tracing::error!(
                seconds = difference / 1000,
                "the clock of this host is more than a minute from the clock of the store: synchronize both, for example with NTP"
            );
        }
        was_reported = is_reported(difference);
    }
}
