//! The JSON of destinations. It contains no address, because addresses of webhooks often contain a secret.

use model::time::HostTime;
use serde::Serialize;

use crate::records::destination::Destination;
use crate::timestamp::rfc3339;

/// A destination in a list.
#[derive(Debug, Clone, Serialize)]
pub struct DestinationView {
    /// The name of the destination.
    pub name: String,
    /// Whether changes are posted.
    pub state: DestinationState,
    /// The cursor after the last change that was accepted; null before the first start.
    pub cursor: Option<String>,
    /// How many changes were accepted.
    pub delivered: u64,
    /// When a change was last accepted; null if none was.
    pub last_delivered_at: Option<String>,
    /// How many attempts in a row failed.
    pub failures: u32,
    /// Why the last attempt failed; null if it did not fail.
    pub last_failure: Option<String>,
    /// When the next attempt is made; null if the last one did not fail.
    pub retry_at: Option<String>,
}

/// Whether changes are posted to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DestinationState {
    /// A process posts changes.
    Posting,
    /// The last attempt failed, and the next one is made later.
    Failing,
    /// An operator has paused the destination.
    Paused,
    /// No process posts changes.
    NotRunning,
}

impl DestinationState {
    /// Returns the name of the state, as JSON shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Posting => "posting",
            Self::Failing => "failing",
            Self::Paused => "paused",
            Self::NotRunning => "not_running",
        }
    }
}

/// Returns a destination as it is at `now`, on the clock of the store.
pub fn destination_view(name: &str, stored: &Destination, now: HostTime) -> DestinationView {
    let state = if stored.is_paused {
        DestinationState::Paused
    } else if !stored.lease.is_held(now) {
        DestinationState::NotRunning
    } else if stored.failures > 0 {
        DestinationState::Failing
    } else {
        DestinationState::Posting
    };
    DestinationView {
        name: name.to_owned(),
        state,
        cursor: stored.cursor.clone(),
        delivered: stored.delivered,
        last_delivered_at: stored.last_delivered_at.map(rfc3339),
        failures: stored.failures,
        last_failure: stored.last_failure.clone(),
        retry_at: (stored.failures > 0).then(|| rfc3339(stored.retry_at)),
    }
}
