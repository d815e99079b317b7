//! The JSON of invitations. It does not contain the text with which people log in.

use std::fmt;

use model::id::UserId;
use model::time::HostTime;
use serde::Serialize;

use crate::records::invitation::InvitationRecord;
use crate::timestamp::rfc3339;

/// An invitation in a list.
#[derive(Debug, Clone, Serialize)]
pub struct InvitationView {
    /// The id of the invitation.
    pub id: String,
    /// The client whose Pages are connected; null if the operator named none.
    pub client: Option<String>,
    /// The state of the invitation.
    pub state: InvitationState,
    /// When it was made.
    pub created_at: String,
    /// When it expires.
    pub expires_at: String,
    /// The person who used it; null if nobody has.
    pub used_by: Option<UserId>,
    /// The address that is shown when the login is complete; null if there is none.
    pub return_to: Option<String>,
}

/// The state of an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InvitationState {
    /// One person can use it.
    Open,
    /// A person has used it, and can use it again until it expires.
    Used,
    /// It has expired.
    Expired,
    /// An operator revoked it.
    Revoked,
}

impl fmt::Display for InvitationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        })
    }
}

/// Returns an invitation as it is at `now`.
pub fn invitation_view(id: &str, record: &InvitationRecord, now: HostTime) -> InvitationView {
    let state = if record.revoked_at.is_some() {
        InvitationState::Revoked
    } else if record.used_by.is_some() {
        InvitationState::Used
    } else if record.expires_at <= now {
        InvitationState::Expired
    } else {
        InvitationState::Open
    };
    InvitationView {
        id: id.to_owned(),
        client: record.client.clone(),
        state,
        created_at: rfc3339(record.created_at),
        expires_at: rfc3339(record.expires_at),
        used_by: record.used_by.clone(),
        return_to: record.return_to.clone(),
    }
}
