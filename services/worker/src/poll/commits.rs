//! Commits that several kinds of polls use.
//!
//! Invariant: a record and the due time of its subject change in one commit.

use common::records::{commit_one, load_record, put_write};
use common::store::{
    Commit, CommitOutcome, DueWrite, RecordGuard, RecordKey, StoreError, Versioned,
};
use model::id::Subject;
use model::polling::Polling;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;

/// Returns the commit that writes a record and the due time of its subject.
pub(super) fn update_commit<T: Serialize>(
    key: RecordKey,
    value: &T,
    version: u64,
    subject: Subject,
    polling: &Polling,
) -> Commit {
    Commit {
        records: vec![put_write(key, value, Some(version), None)],
        due: vec![DueWrite {
            subject,
            due: polling.due(),
        }],
        ..Commit::default()
    }
}

/// Applies `change` to a record and commits it with the due time of its subject. If the commit is
/// stale, the change is applied to the newer version, so that a request made meanwhile is not lost.
/// A record that no longer exists is not created again. Fails if the store does not answer.
pub(super) async fn save_outcome<T: Serialize + DeserializeOwned>(
    context: &Context,
    key: &RecordKey,
    subject: &Subject,
    polling: impl Fn(&T) -> Polling,
    change: impl Fn(&mut T),
) -> Result<(), StoreError> {
    loop {
        let Some(Versioned { version, mut value }) = load_record::<T>(&*context.store, key).await?
        else {
            return Ok(());
        };
        change(&mut value);
        let due = polling(&value);
        let next = update_commit(key.clone(), &value, version, subject.clone(), &due);
        if commit_one(&*context.store, next).await? == CommitOutcome::Applied {
            return Ok(());
        }
    }
}

/// Returns the commit that removes a subject from the due index if `record` does not exist.
pub(super) fn remove_due_commit(subject: Subject, record: RecordKey) -> Commit {
    Commit {
        due: vec![DueWrite { subject, due: None }],
        guards: vec![RecordGuard {
            key: record,
            version: 0,
        }],
        ..Commit::default()
    }
}
