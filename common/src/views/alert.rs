//! The JSON of the problems of which the operator is told.

use serde::Serialize;
use utoipa::ToSchema;

use crate::records::alert::{Alert, AlertKind};
use crate::timestamp::rfc3339;

/// A problem in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AlertView {
    /// The id of the problem: its kind, a dot and its subject.
    pub id: String,
    /// The kind of the problem.
    pub kind: AlertKind,
    /// What has the problem: the id of a person or of a Page, or another name.
    pub subject: String,
    /// The client whose Pages are concerned; null if there is none.
    pub client: Option<String>,
    /// Whether the problem is open.
    pub state: AlertState,
    /// The cause.
    pub cause: String,
    /// When the problem was found.
    pub opened_at: String,
    /// When the operator was last told of the problem; null before the first time.
    pub told_at: Option<String>,
    /// The channels that have not accepted the last message yet.
    pub pending: Vec<&'static str>,
    /// Until when there are no reminders; null if the problem is not snoozed.
    pub snoozed_until: Option<String>,
    /// When the problem was resolved; null while it is open.
    pub resolved_at: Option<String>,
}

/// Whether a problem is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// The problem was found, but does not last long enough to be told.
    New,
    /// The problem is open.
    Open,
    /// The problem was resolved within the last hour.
    Resolved,
}

impl AlertState {
    /// Returns the name of the state, as JSON shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Open => "open",
            Self::Resolved => "resolved",
        }
    }
}

/// Returns the view of a problem.
pub fn alert_view(alert: &Alert) -> AlertView {
    AlertView {
        id: alert.id(),
        kind: alert.kind,
        subject: alert.subject.clone(),
        client: alert.client.clone(),
        state: match (alert.resolved_at, alert.told_at) {
            (Some(_), _) => AlertState::Resolved,
            (None, Some(_)) => AlertState::Open,
            (None, None) => AlertState::New,
        },
        cause: alert.cause.clone(),
        opened_at: rfc3339(alert.opened_at),
        told_at: alert.told_at.map(rfc3339),
        pending: alert.pending.keys().map(|channel| channel.name()).collect(),
        snoozed_until: alert.snoozed_until.map(rfc3339),
        resolved_at: alert.resolved_at.map(rfc3339),
    }
}
