//! Commits every poll can end in.

use common::records::{commit, get, put};
use common::store::{Commit, DueWrite, Key, Outcome, StoreError, Versioned};
use model::due::Polling;
use model::id::Subject;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Parts;

/// The write of a record and of its subject's due time.
pub(super) fn save<T: Serialize>(
    key: Key,
    value: &T,
    version: u64,
    subject: Subject,
    polling: &Polling,
) -> Commit {
    Commit {
        records: vec![put(key, value, Some(version), None)],
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
pub(super) async fn settle<T: Serialize + DeserializeOwned>(
    parts: &Parts,
    (key, subject): (&Key, &Subject),
    polling: impl Fn(&T) -> Polling,
    change: impl Fn(&mut T),
) -> Result<(), StoreError> {
    loop {
        let Some(Versioned { version, mut value }) = get::<T>(&*parts.store, key).await? else {
            return Ok(());
        };
        change(&mut value);
        let due = polling(&value);
        let next = save(key.clone(), &value, version, subject.clone(), &due);
        if commit(&*parts.store, next).await? == Outcome::Applied {
            return Ok(());
        }
    }
}

/// The commit that forgets when a subject is due, if its record is gone indeed.
pub(super) fn forget_due(subject: Subject, record: Key) -> Commit {
    Commit {
        due: vec![DueWrite { subject, due: None }],
        guards: vec![(record, 0)],
        ..Commit::default()
    }
}
