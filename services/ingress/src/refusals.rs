//! Says in the log that requests were refused, at most once a minute and kind: a wrong secret must be
//! seen, a flood must not fill the disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::time::HostTime;

/// Between two lines of a kind.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// One kind of refusal.
#[derive(Debug)]
pub struct RefusalLog {
    what: &'static str,
    unsaid: AtomicU64,
    said_at: AtomicU64,
}

impl RefusalLog {
    /// `what` is the line: what was refused, and what to look at.
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            unsaid: AtomicU64::new(0),
            said_at: AtomicU64::new(0),
        }
    }

    /// One more.
    pub fn count(&self, now: HostTime) {
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        let said_at = self.said_at.load(Ordering::Relaxed);
        if HostTime(said_at).until(now) < LOG_INTERVAL {
            return;
        }
        let taken = (Ordering::Relaxed, Ordering::Relaxed);
        if self
            .said_at
            .compare_exchange(said_at, now.0, taken.0, taken.1)
            .is_ok()
        {
            let n = self.unsaid.swap(0, Ordering::Relaxed);
            tracing::warn!(refused = n, "{}", self.what);
        }
    }
}
