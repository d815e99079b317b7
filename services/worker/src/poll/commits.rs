//! Commits every poll can end in.

use common::records::{commit_one, load_record, put_write};
use common::store::{Commit, CommitOutcome, DueWrite, RecordKey, StoreError, Versioned};
use model::id::Subject;
use model::polling::Polling;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;

/// The write of a record and of its subject's due time.
pub(super) fn save_commit<T: Serialize>(
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

/// Writes what an attempt came to into a record and its subject's due time, on whatever version the
/// record has by now: whoever wrote it meanwhile asked for something else. A record that is gone stays
/// gone.
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
        let next = save_commit(key.clone(), &value, version, subject.clone(), &due);
        if commit_one(&*context.store, next).await? == CommitOutcome::Applied {
            return Ok(());
        }
    }
}

/// The commit that forgets when a subject is due, if its record is gone indeed.
pub(super) fn remove_due_commit(subject: Subject, record: RecordKey) -> Commit {
    Commit {
        due: vec![DueWrite { subject, due: None }],
        guards: vec![(record, 0)],
        ..Commit::default()
    }
}
