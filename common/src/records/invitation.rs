//! Invitations that an operator made: for which client, to which address people return, and who used
//! them.
//!
//! Invariant: an invitation is used by one person. The commit that connects the person records this on
//! the condition that nobody else has used it.

use std::time::Duration;

use model::id::UserId;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::{load_record, put_write};
use crate::store::{RecordKey, RecordKind, RecordWrite, Store, StoreError, Versioned};

/// How long a record is stored after its invitation has expired.
const RETENTION: Duration = Duration::from_secs(90 * 24 * 3600);

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationRecord {
    /// The client whose Pages are connected; `None` if the operator named none.
    pub client: Option<String>,
    /// The address that is shown to the person when the login is complete.
    pub return_to: Option<String>,
    /// When it was made, on this host's clock.
    pub created_at: HostTime,
    /// When it expires, on this host's clock.
    pub expires_at: HostTime,
    /// The person who used it; `None` if nobody has.
    pub used_by: Option<UserId>,
    /// When an operator revoked it; `None` if it is not revoked.
    pub revoked_at: Option<HostTime>,
}

impl InvitationRecord {
    /// Returns why a person may not use the invitation, or `None` if they may.
    pub fn refusal(&self, user: &UserId) -> Option<&'static str> {
        if self.revoked_at.is_some() {
            return Some(
                "the invitation was revoked: ask the operator of this site for a new link",
            );
        }
        if self.used_by.as_ref().is_some_and(|other| other != user) {
            return Some(
                "another person has used this invitation, which is good for one person: ask the operator of this site for a link of your own",
            );
        }
        None
    }
}

/// Returns the key of the record of an invitation.
pub fn key(id: &str) -> RecordKey {
    RecordKey::new(RecordKind::Invitation, id)
}

/// Returns the write of a record that has the version `expected`.
pub fn put(id: &str, record: &InvitationRecord, expected: u64, now: HostTime) -> RecordWrite {
    let ttl = now.until(record.expires_at) + RETENTION;
    put_write(key(id), record, Some(expected), Some(ttl))
}

/// Returns the record of an invitation, or `None` if there is none.
pub async fn find(
    store: &dyn Store,
    id: &str,
) -> Result<Option<Versioned<InvitationRecord>>, StoreError> {
    load_record(store, &key(id)).await
}
