//! The state of forwarding: which worker forwards, and how the program answers.
//!
//! Invariant: only the worker that holds the lease receives deliveries and sends them, so that the
//! deliveries of a Page keep their order. If a worker ends without releasing the lease, another one goes on
//! when the lease has ended.

use std::time::Duration;

use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::lease::Lease;
use super::{load_record, put_write, write_records};
use crate::store::{CommitOutcome, RecordKey, RecordKind, Store, StoreError, Versioned};

/// How long a worker holds the lease without renewing it.
pub const LEASE: Duration = Duration::from_secs(12);
/// How often the holder of the lease renews it.
pub const RENEWAL: Duration = Duration::from_secs(3);

/// The state of forwarding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarding {
    /// The lease of the worker that forwards.
    #[serde(flatten)]
    pub lease: Lease,
    /// How many deliveries the program accepted.
    #[serde(default)]
    pub accepted: u64,
    /// When the program last accepted a delivery, on the clock of the store.
    #[serde(default)]
    pub last_accepted_at: Option<HostTime>,
    /// Since when the program accepts nothing, on the clock of the store; `None` if it accepts
    /// deliveries.
    #[serde(default)]
    pub down_since: Option<HostTime>,
    /// Why the last attempt failed; `None` if the program accepted a delivery since.
    #[serde(default)]
    pub last_failure: Option<String>,
    /// How many deliveries became dead letters because they were too old.
    #[serde(default)]
    pub too_old: u64,
}

fn key() -> RecordKey {
    RecordKey::new(RecordKind::Forwarding, "state")
}

/// Returns the state of forwarding. If nothing was forwarded yet, it has version 0.
pub async fn find(store: &dyn Store) -> Result<Versioned<Forwarding>, StoreError> {
    let stored = load_record::<Forwarding>(store, &key()).await?;
    Ok(stored.unwrap_or_else(|| Versioned {
        version: 0,
        value: Forwarding::default(),
    }))
}

/// What a worker has seen since it wrote the state of forwarding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many deliveries the program accepted.
    pub accepted: u64,
    /// How many deliveries were too old.
    pub too_old: u64,
    /// Whether the program accepts nothing.
    pub is_down: bool,
    /// Why the last attempt failed, if none succeeded since.
    pub last_failure: Option<String>,
}

/// Takes or renews the lease for `process`, and adds what the process has seen. Returns whether the process
/// has the lease. `now` is the time of the clock of the store.
pub async fn renew(
    store: &dyn Store,
    process: &str,
    progress: &Progress,
    now: HostTime,
) -> Result<bool, StoreError> {
    let Versioned { version, value } = find(store).await?;
    if !value.lease.is_free_for(process, now) {
        return Ok(false);
    }
    let next = Forwarding {
        lease: Lease::of(process, now.plus(LEASE)),
        ..with_progress(value, progress, now)
    };
    let write = put_write(key(), &next, Some(version), None);
    Ok(write_records(store, vec![write]).await? == CommitOutcome::Applied)
}

/// Ends the lease of a process that stops, so that another one goes on at once.
pub async fn release(
    store: &dyn Store,
    process: &str,
    progress: &Progress,
    now: HostTime,
) -> Result<(), StoreError> {
    loop {
        let Versioned { version, value } = find(store).await?;
        if !value.lease.is_of(process) {
            return Ok(());
        }
        let next = Forwarding {
            lease: Lease::default(),
            ..with_progress(value, progress, now)
        };
        let write = put_write(key(), &next, Some(version), None);
        if write_records(store, vec![write]).await? == CommitOutcome::Applied {
            return Ok(());
        }
    }
}

fn with_progress(state: Forwarding, progress: &Progress, now: HostTime) -> Forwarding {
    let has_accepted = progress.accepted > 0;
    let down_since = progress
        .is_down
        .then(|| state.down_since.filter(|_| !has_accepted).unwrap_or(now));
    let is_known = !has_accepted && progress.last_failure.is_none() && progress.is_down;
    Forwarding {
        accepted: state.accepted + progress.accepted,
        too_old: state.too_old + progress.too_old,
        last_accepted_at: has_accepted.then_some(now).or(state.last_accepted_at),
        down_since,
        last_failure: progress
            .last_failure
            .clone()
            .or(state.last_failure.filter(|_| is_known)),
        ..state
    }
}
