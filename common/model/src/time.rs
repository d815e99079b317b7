//! Instants on two clocks: this host's ([`HostTime`]) and Facebook's ([`FacebookTime`]).
//!
//! Invariant: an instant of one clock is never converted to an instant of the other, so this host's
//! clock never becomes the stamp of a value. Only [`FacebookTime::ahead_of`] and
//! [`FacebookTime::difference_to`] compare the two, to check whether a clock is plausible.
//!
//! The expiry of a token and the time of an erasure request are [`HostTime`] although Facebook
//! sends them: they are compared with this host's clock and never become stamps.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant on this host's clock, in milliseconds since the UNIX epoch.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct HostTime(pub u64);

/// An instant on Facebook's clock, in milliseconds since the UNIX epoch: the time that a webhook
/// carries, or a lower bound of the instant at which Graph answered a read.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct FacebookTime(pub u64);

fn add(millis: u64, duration: Duration) -> u64 {
    millis.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

impl HostTime {
    /// Returns the instant `after` later, or the last representable instant.
    pub fn plus(self, after: Duration) -> Self {
        Self(add(self.0, after))
    }

    /// Returns the instant `before` earlier, or the UNIX epoch.
    pub fn minus(self, before: Duration) -> Self {
        let millis = u64::try_from(before.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// Returns the time from this instant to `later`, or zero if `later` is earlier.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

impl FacebookTime {
    /// Returns the instant `after` later, or the last representable instant.
    pub fn plus(self, after: Duration) -> Self {
        Self(add(self.0, after))
    }

    /// Returns how far this instant is ahead of `now`, or zero if it is not. The result shows
    /// whether the two clocks are plausible; it must not order events.
    pub fn ahead_of(self, now: HostTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now.0))
    }

    /// Returns how far the two clocks are apart if this instant and `now` are the same moment.
    pub fn difference_to(self, now: HostTime) -> Duration {
        Duration::from_millis(self.0.abs_diff(now.0))
    }
}

impl From<HostTime> for u64 {
    fn from(at: HostTime) -> Self {
        at.0
    }
}

impl From<FacebookTime> for u64 {
    fn from(at: FacebookTime) -> Self {
        at.0
    }
}

impl fmt::Display for HostTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for FacebookTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
