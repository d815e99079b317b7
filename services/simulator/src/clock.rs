//! Reads the clock of the machine that runs the simulator.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the current UNIX time in seconds, the unit of `entry.time`.
pub(crate) fn unix_now() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulator has Facebook's clock and does not use pagesync's `Clock`"
    )]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
