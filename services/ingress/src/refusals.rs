//! Says in the log that requests were refused, at most once a minute and kind: a wrong secret must be
//! seen, a flood must not fill the disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::time::Millis;

/// Between two lines of a kind.
const BETWEEN: Duration = Duration::from_secs(60);

/// One kind of refusal.
#[derive(Debug)]
pub struct Refusals {
    what: &'static str,
    unsaid: AtomicU64,
    said_at: AtomicU64,
}

impl Refusals {
    /// `what` is the line: what was refused, and what to look at.
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            unsaid: AtomicU64::new(0),
            said_at: AtomicU64::new(0),
        }
    }

    /// One more.
    pub fn count(&self, now: Millis) {
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        let said_at = self.said_at.load(Ordering::Relaxed);
        if Millis(said_at).until(now) < BETWEEN {
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
