//! A lease, by which one of several processes does a task.
//!
//! Invariant: the end of a lease is a time of the clock of the store, so that the clocks of the hosts do not
//! matter. Whoever takes a lease writes it on the condition that the record has not changed.

use model::time::HostTime;
use serde::{Deserialize, Serialize};

/// A lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The process that holds the lease.
    #[serde(default)]
    pub owner: Option<String>,
    /// The end of the lease, on the clock of the store.
    #[serde(default)]
    pub owned_until: HostTime,
}

impl Lease {
    /// Returns the lease of `process` until a time of the clock of the store.
    pub fn of(process: &str, until: HostTime) -> Self {
        Self {
            owner: Some(process.to_owned()),
            owned_until: until,
        }
    }

    /// Returns whether a process holds the lease at `now`.
    pub fn is_held(&self, now: HostTime) -> bool {
        self.owner.is_some() && self.owned_until > now
    }

    /// Returns whether `process` took the lease last.
    pub fn is_of(&self, process: &str) -> bool {
        self.owner.as_deref() == Some(process)
    }

    /// Returns whether `process` may take or renew the lease at `now`.
    pub fn is_free_for(&self, process: &str, now: HostTime) -> bool {
        self.is_of(process) || !self.is_held(now)
    }
}
