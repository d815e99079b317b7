//! Our clock. Everything that needs the time of day takes a [`Clock`]; nothing reads it by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use model::time::HostTime;

/// A source of the current time.
#[derive(Debug, Clone)]
pub struct Clock(Inner);

#[derive(Debug, Clone)]
enum Inner {
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Inner::System)
    }

    /// A clock that stands at `start` until [`Self::advance`] moves it.
    pub fn manual(start: HostTime) -> Self {
        Self(Inner::Manual(Arc::new(AtomicU64::new(start.0))))
    }

    /// The time of day.
    pub fn now(&self) -> HostTime {
        match &self.0 {
            Inner::System => {
                #[expect(clippy::disallowed_methods, reason = "this is the clock")]
                let now = std::time::SystemTime::now();
                let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
                HostTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Inner::Manual(now) => HostTime(now.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock on; the machine's clock is not ours to move.
    pub fn advance(&self, by: Duration) {
        if let Inner::Manual(now) = &self.0 {
            now.fetch_add(u64::try_from(by.as_millis()).unwrap_or(0), Ordering::SeqCst);
        }
    }
}
