//! The dead letters that the worker retries.
//!
//! Invariant: only the process that has reserved the retry of a dead letter makes it.

use model::time::HostTime;
use serde_json::Value as Json;

use super::record::{DeadLetter, RetryState, key, put_writes, retry_key};
use super::usage;
use crate::records::{commit_one, load_chunk, load_decodable, load_record, write_records};
use crate::store::{
    Commit, CommitOutcome, RecordGuard, RecordKind, RecordWrite, Store, StoreError, Versioned,
};

/// Reserves the retry of a dead letter for `process`. Returns `None` if the dead letter does not
/// exist or is not to be retried, or if another process has the reservation.
pub async fn begin_retry(
    store: &dyn Store,
    id: &str,
    process: &str,
    now: HostTime,
) -> Result<Option<DeadLetter>, StoreError> {
    let Some(Versioned {
        version,
        value: mut dead_letter,
    }) = load_record::<DeadLetter>(store, &key(id)).await?
    else {
        return Ok(None);
    };
    match &dead_letter.retry {
        RetryState::Final => return Ok(None),
        RetryState::InProgress(other) if other != process => return Ok(None),
        RetryState::InProgress(_) => return Ok(Some(dead_letter)),
        RetryState::Pending => {}
    }
    dead_letter.retry = RetryState::InProgress(process.to_owned());
    let writes = put_writes(id, &dead_letter, Some(version), now);
    let outcome = write_records(store, writes).await?;
    Ok((outcome == CommitOutcome::Applied).then_some(dead_letter))
}

/// Sets the retry state of a dead letter. Does nothing if the dead letter does not exist or is
/// written by another process at the same time.
pub async fn set_retry_state(
    store: &dyn Store,
    id: &str,
    retry: RetryState,
    now: HostTime,
) -> Result<(), StoreError> {
    if let Some(Versioned { version, value }) = load_record::<DeadLetter>(store, &key(id)).await? {
        let dead_letter = DeadLetter { retry, ..value };
        let writes = put_writes(id, &dead_letter, Some(version), now);
        write_records(store, writes).await?;
    }
    Ok(())
}

/// Makes a dead letter final after a retry that failed for `reason`. Does nothing if the dead letter
/// does not exist or is written by another process at the same time.
pub async fn end_retry(
    store: &dyn Store,
    id: &str,
    reason: &str,
    now: HostTime,
) -> Result<(), StoreError> {
    if let Some(Versioned { version, value }) = load_record::<DeadLetter>(store, &key(id)).await? {
        let mut writes = usage::replace_writes(&value, reason).to_vec();
        let dead_letter = DeadLetter {
            reason: reason.to_owned(),
            retry: RetryState::Final,
            ..value
        };
        writes.extend(put_writes(id, &dead_letter, Some(version), now));
        write_records(store, writes).await?;
    }
    Ok(())
}

/// Returns the ids of the next dead letters that the worker retries, in the order of the ids.
/// `after` is used as by [`load_chunk`]. An entry without a dead letter is removed.
pub async fn next_retryable(
    store: &dyn Store,
    after: &mut Option<String>,
) -> Result<Option<Vec<(String, DeadLetter)>>, StoreError> {
    let Some(listed) = load_chunk::<Json>(store, RecordKind::DeadLetterRetry, "", after).await?
    else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for (id, entry) in listed {
        if let Some(Versioned { value, .. }) = load_decodable(store, &key(&id)).await? {
            found.extend(value.map(|value| (id, value)));
            continue;
        }
        let orphan = RecordWrite::Delete {
            key: retry_key(&id),
            expected: Some(entry.version),
        };
        // The job may fail again at the same time, with a new dead letter and a new entry.
        let no_dead_letter = RecordGuard {
            key: key(&id),
            version: 0,
        };
        let commit = Commit {
            records: vec![orphan],
            guards: vec![no_dead_letter],
            ..Commit::default()
        };
        commit_one(store, commit).await?;
    }
    Ok(Some(found))
}
