//! The destinations of changes: up to which cursor the changes were posted, and which process posts.
//!
//! Invariants: only the process that holds the lease of a destination posts to it. The cursor moves after a
//! post was accepted, so a change is posted at least once, and in order. A command that changes a
//! destination makes a write of the posting process stale.

use std::time::Duration;

use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::lease::Lease;
use super::{load_record, put_write, write_records};
use crate::store::{CommitOutcome, RecordKey, RecordKind, Store, StoreError, Versioned};

/// How long a process holds a destination without renewing its lease.
pub const LEASE: Duration = Duration::from_secs(60);
/// How often the holder of a lease renews it. A post takes less than the rest.
pub const RENEWAL: Duration = Duration::from_secs(10);

/// The state of a destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// The cursor after the last change that was accepted; `None` before the first start.
    pub cursor: Option<String>,
    /// Whether an operator has paused the destination.
    #[serde(default)]
    pub is_paused: bool,
    /// The lease of the process that posts.
    #[serde(flatten)]
    pub lease: Lease,
    /// How many changes were accepted.
    #[serde(default)]
    pub delivered: u64,
    /// When a change was last accepted, on the clock of the store.
    #[serde(default)]
    pub last_delivered_at: Option<HostTime>,
    /// How many attempts in a row failed.
    #[serde(default)]
    pub failures: u32,
    /// Why the last attempt failed; `None` if it did not fail.
    #[serde(default)]
    pub last_failure: Option<String>,
    /// When the next attempt is made after a failure, on the clock of the store.
    #[serde(default)]
    pub retry_at: HostTime,
}

/// Returns the key of the record of a destination.
pub fn key(name: &str) -> RecordKey {
    RecordKey::new(RecordKind::Destination, name)
}

/// Returns the state of a destination. One that does not exist has version 0.
pub async fn find(store: &dyn Store, name: &str) -> Result<Versioned<Destination>, StoreError> {
    let stored = load_record::<Destination>(store, &key(name)).await?;
    Ok(stored.unwrap_or_else(|| Versioned {
        version: 0,
        value: Destination::default(),
    }))
}

/// Stores the state of a destination, if it still has the version. Returns the new version, or `None` if
/// another process has changed it.
pub async fn save(
    store: &dyn Store,
    name: &str,
    state: &Versioned<Destination>,
) -> Result<Option<u64>, StoreError> {
    let write = put_write(key(name), &state.value, Some(state.version), None);
    let outcome = write_records(store, vec![write]).await?;
    Ok((outcome == CommitOutcome::Applied).then_some(state.version + 1))
}

/// Takes or renews the lease of a destination for `process`. Returns its state, or `None` if another
/// process holds the lease. `now` is the time of the clock of the store.
pub async fn acquire(
    store: &dyn Store,
    name: &str,
    process: &str,
    now: HostTime,
) -> Result<Option<Versioned<Destination>>, StoreError> {
    let mut state = find(store, name).await?;
    let lease = &state.value.lease;
    if lease.is_of(process) && now.until(lease.owned_until) > LEASE.saturating_sub(RENEWAL) {
        return Ok(Some(state));
    }
    if !lease.is_free_for(process, now) {
        return Ok(None);
    }
    state.value.lease = Lease::of(process, now.plus(LEASE));
    let saved = save(store, name, &state).await?;
    Ok(saved.map(|version| Versioned { version, ..state }))
}

/// Ends the lease of a process that stops, so that another one goes on at once.
pub async fn release(store: &dyn Store, name: &str, process: &str) -> Result<(), StoreError> {
    change(store, name, |state| {
        if state.lease.is_of(process) {
            state.lease = Lease::default();
        }
    })
    .await
    .map(drop)
}

/// Changes the state of a destination, whoever holds its lease. Returns the new state.
pub async fn change(
    store: &dyn Store,
    name: &str,
    change: impl Fn(&mut Destination),
) -> Result<Destination, StoreError> {
    loop {
        let mut state = find(store, name).await?;
        change(&mut state.value);
        if save(store, name, &state).await?.is_some() {
            return Ok(state.value);
        }
    }
}
