//! The clock of this host.
//!
//! Invariant: code that needs the current time takes a [`Clock`], so that tests can set the time.
//! Only this module and the simulator read the system clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use model::time::HostTime;

/// A source of the current time of this host.
#[derive(Debug, Clone)]
pub struct Clock(Inner);

#[derive(Debug, Clone)]
enum Inner {
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// Returns the clock of the operating system.
    pub fn system() -> Self {
        Self(Inner::System)
    }

    /// Returns a clock that shows `start` until [`Self::advance`] moves it.
    pub fn manual(start: HostTime) -> Self {
        Self(Inner::Manual(Arc::new(AtomicU64::new(start.0))))
    }

    /// Returns the current time.
    pub fn now(&self) -> HostTime {
        match &self.0 {
            Inner::System => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "every other module takes a Clock"
                )]
                let now = std::time::SystemTime::now();
                let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
                HostTime(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
            }
            Inner::Manual(now) => HostTime(now.load(Ordering::SeqCst)),
        }
    }

    /// Sets a manual clock, also to an earlier time. Has no effect on the system clock.
    pub fn set(&self, to: HostTime) {
        if let Inner::Manual(now) = &self.0 {
            now.store(to.0, Ordering::SeqCst);
        }
    }

    /// Moves a manual clock forward. Has no effect on the system clock.
    pub fn advance(&self, by: Duration) {
        if let Inner::Manual(now) = &self.0 {
            now.fetch_add(u64::try_from(by.as_millis()).unwrap_or(0), Ordering::SeqCst);
        }
    }
}
