//! The inspections of the tokens of people: when each token is inspected next, and when it was last
//! exchanged.
//!
//! Invariant: a connection and the record of its inspections are created and deleted together.

use model::id::{Subject, UserId};
use model::polling::Polling;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::{commit_one, load_if_decodable, put_write};
use crate::store::{
    Commit, CommitOutcome, DueWrite, RecordKey, RecordKind, Store, StoreError, Versioned,
};

/// The inspections of one person's token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenInspection {
    /// The poll state, which determines when the token is inspected next.
    pub polling: Polling,
    /// When the token was last exchanged for one that expires later, on this host's clock; `None` if
    /// it was not.
    pub exchanged_at: Option<HostTime>,
}

/// Returns the key of the inspections of a person's token.
pub fn key(user: &UserId) -> RecordKey {
    RecordKey::new(RecordKind::TokenInspection, user.as_str())
}

/// Adds the record and its due time to a commit that creates or renews a connection. The token is
/// inspected next at `at`.
pub fn add_new(commit: &mut Commit, user: &UserId, at: HostTime) {
    let inspection = TokenInspection {
        polling: Polling {
            daily_slot: Some(at),
            ..Polling::default()
        },
        exchanged_at: None,
    };
    commit
        .records
        .push(put_write(key(user), &inspection, None, None));
    commit.due.push(DueWrite {
        subject: Subject::Token(user.clone()),
        due: inspection.polling.due(),
    });
}

/// Requests an inspection of a person's token now. Does nothing if one is requested already, or if the
/// person has no connection.
pub async fn request(store: &dyn Store, user: &UserId, now: HostTime) -> Result<(), StoreError> {
    loop {
        let stored = load_if_decodable::<TokenInspection>(store, &key(user)).await?;
        let Some(Versioned { version, mut value }) = stored else {
            return Ok(());
        };
        if value.polling.open_request_from().is_some() {
            return Ok(());
        }
        value.polling.request_read_now(now);
        let commit = Commit {
            records: vec![put_write(key(user), &value, Some(version), None)],
            due: vec![DueWrite {
                subject: Subject::Token(user.clone()),
                due: value.polling.due(),
            }],
            ..Commit::default()
        };
        if commit_one(store, commit).await? == CommitOutcome::Applied {
            return Ok(());
        }
    }
}
