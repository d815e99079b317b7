//! Logs refused requests, at most once a minute for each kind, so that a wrong secret shows in the
//! log and a flood of requests does not fill the disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::time::HostTime;

/// The minimum time between two log lines of one kind.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The log of one kind of refused requests.
#[derive(Debug)]
pub struct RefusalLog {
    message: &'static str,
    /// How many requests were refused since the last log line.
    unlogged: AtomicU64,
    /// When the last log line was written, in milliseconds of [`HostTime`].
    logged_at: AtomicU64,
}

impl RefusalLog {
    /// Creates a log. Each of its lines is `message`, which names the refused requests and the
    /// reason, with the number of refused requests.
    pub fn new(message: &'static str) -> Self {
        Self {
            message,
            unlogged: AtomicU64::new(0),
            logged_at: AtomicU64::new(0),
        }
    }

    /// Counts a refused request. Logs the count if the last log line is older than a minute.
    pub fn count(&self, now: HostTime) {
        self.unlogged.fetch_add(1, Ordering::Relaxed);
        let logged_at = self.logged_at.load(Ordering::Relaxed);
        if HostTime(logged_at).until(now) < LOG_INTERVAL {
            return;
        }
        // If several requests are refused at the same time, only one of them logs the line.
        let exchanged =
            self.logged_at
                .compare_exchange(logged_at, now.0, Ordering::Relaxed, Ordering::Relaxed);
        if exchanged.is_ok() {
            let refused = self.unlogged.swap(0, Ordering::Relaxed);
            tracing::warn!(refused, "{}", self.message);
        }
    }
}
