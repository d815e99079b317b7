//! When something is tried: whether it is due, and when it is tried again after a failure.

use std::time::Duration;

use common::graph::error::GraphError;
use model::due::Polling;
use model::time::Millis;

/// The pauses after failures that pass by themselves.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(60);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// The pause after a failure that somebody must mend: a dead token costs one call a day.
pub(super) const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// Whether a subject is due now, by our clock or by that of the scheduler that claimed it at `claimed`:
/// were it only ours, a scheduler whose clock is ahead would claim it again at once, and again.
pub(super) fn is_due(polling: &Polling, now: Millis, claimed: Millis) -> bool {
    polling.due().is_some_and(|(_, at)| at <= now.max(claimed))
}

/// Nothing before this after `failures` failures, the last of them `error`.
pub(super) fn resume(error: &GraphError, failures: u32, now: Millis) -> Millis {
    match error {
        GraphError::Token { .. }
        | GraphError::Permission(_)
        | GraphError::Missing
        | GraphError::Configuration(_) => now.plus(A_DAY),
        _ => now.plus(doubled(FIRST_PAUSE, LONGEST_PAUSE, failures)),
    }
}

/// `first`, doubled for each failure, with jitter of a fifth so that many do not come back in step.
pub(super) fn doubled(first: Duration, longest: Duration, failures: u32) -> Duration {
    let whole = first.saturating_mul(1 << failures.min(16)).min(longest);
    whole.mul_f64(0.9 + fastrand::f64() / 5.0)
}
