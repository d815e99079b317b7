//! The JSON of actions.

use serde::Serialize;
use utoipa::ToSchema;

use crate::records::audit::AuditRecord;
use crate::timestamp::rfc3339;

/// An action in the audit.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AuditView {
    /// The id of the action.
    pub id: String,
    /// When the action ended, on this host's clock.
    pub at: String,
    /// The id of the API key, or `command line`.
    pub actor: String,
    /// The name of the API key; null if a command made the action.
    pub actor_name: Option<String>,
    /// The name of the action.
    pub action: String,
    /// The object, as `<kind>:<id>`.
    pub target: String,
    /// The version of the object that the request named; null if it named none.
    pub version: Option<u64>,
    /// `done`, or the code of the problem.
    pub outcome: String,
}

/// Returns an action.
pub fn audit_view(id: &str, record: &AuditRecord) -> AuditView {
    AuditView {
        id: id.to_owned(),
        at: rfc3339(record.at),
        actor: record.actor.clone(),
        actor_name: record.actor_name.clone(),
        action: record.action.clone(),
        target: record.target.clone(),
        version: record.version,
        outcome: record.outcome.clone(),
    }
}
