//! Dead letters: jobs that failed for good, stored with the reason so that they can be replayed.
//!
//! Invariants: the id of a dead letter is the id of its job, so a job that fails twice has one dead
//! letter. A commit that creates or removes a dead letter also changes the counts in [`usage`].

mod mentions;
mod record;
mod removal;
mod retry;
pub mod usage;

pub(super) use mentions::contains_number;
pub use mentions::{Removed, delete_mentioning, mentions_erased_page};
pub use record::{
    DeadLetter, RETENTION, RetryState, UNREADABLE_DATA_PREFIX, body_text, id, job_text,
};
pub use removal::remove;
pub use retry::{begin_retry, end_retry, next_retryable, set_retry_state};

use model::forward::ForwardedDelivery;
use model::job::{Job, decode_job};
use model::queue_name::QueueName;
use model::time::HostTime;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use self::record::{key, put_writes};
use self::removal::remove_writes;
use self::usage::Usage;
use super::{decode_record, load_chunk, load_record, write_records};
use crate::queue::Queue;
use crate::queue::error::QueueError;
use crate::queue::messages::MAX_MESSAGE_BYTES;
use crate::store::{Commit, CommitOutcome, RecordKind, RecordWrite, Store, StoreError, Versioned};

/// The reason why a dead letter could not be shown, replayed or discarded.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// There is no dead letter with this id.
    #[error("there is no dead letter {0}: `pagesync dead-letter list` shows all of them")]
    Unknown(String),
    /// The store did not answer, or its answer cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue did not accept the job. The dead letter is still stored.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Stores a job that failed for `reason` as a dead letter. `others` are written in the same commit.
/// Returns `false` if the job was only counted, because a limit of `usage` is reached. A dead letter
/// that the job already has is replaced.
pub async fn save(
    store: &dyn Store,
    usage: &mut Usage,
    job: &Job,
    reason: &str,
    now: HostTime,
    others: &[RecordWrite],
) -> Result<bool, StoreError> {
    let dead_letter = DeadLetter::new(job, reason, now);
    let id = dead_letter.id();
    loop {
        let (is_stored, mut writes) = match store.load_record(&key(&id)).await? {
            Some(Versioned { version, value }) => {
                let mut writes = put_writes(&id, &dead_letter, Some(version), now);
                writes.extend(usage::remove_writes(&value));
                writes.extend(usage::add_writes(&dead_letter));
                (true, writes)
            }
            None => usage.admit(job, &dead_letter),
        };
        writes.extend_from_slice(others);
        if write_records(store, writes).await? == CommitOutcome::Applied {
            return Ok(is_stored);
        }
    }
}

async fn find(store: &dyn Store, id: &str) -> Result<Option<Versioned<DeadLetter>>, StoreError> {
    load_record(store, &key(id)).await
}

/// Returns every dead letter with its id, in the order of the ids. A dead letter that cannot be
/// decoded is left out and logged, so that it does not hide the others. [`next_chunk`] needs less
/// memory.
pub async fn list(store: &dyn Store) -> Result<Vec<(String, DeadLetter)>, StoreError> {
    let (mut all, mut after) = (Vec::new(), None);
    while let Some(chunk) = next_chunk(store, &mut after).await? {
        all.extend(chunk.into_iter().map(|(id, stored)| (id, stored.value)));
    }
    Ok(all)
}

/// Returns the next dead letters with their ids, in the order of the ids, as [`load_chunk`] does. `T` is
/// [`DeadLetter`], or [`Json`] to include those that this build cannot decode.
pub async fn next_chunk<T: DeserializeOwned>(
    store: &dyn Store,
    after: &mut Option<String>,
) -> Result<Option<Vec<(String, Versioned<T>)>>, StoreError> {
    load_chunk(store, RecordKind::DeadLetter, "", after).await
}

/// Returns one dead letter. Fails with [`DeadLetterError::Unknown`] if it does not exist.
pub async fn find_or_fail(
    store: &dyn Store,
    id: &str,
) -> Result<Versioned<DeadLetter>, DeadLetterError> {
    let found = find(store, id).await?;
    found.ok_or_else(|| DeadLetterError::Unknown(id.to_owned()))
}

/// Returns the dead letters with these ids as they are stored, in the same order. Fails with
/// [`DeadLetterError::Unknown`] if one does not exist.
pub async fn load_chosen(
    store: &dyn Store,
    ids: &[String],
) -> Result<Vec<(String, Versioned<Json>)>, DeadLetterError> {
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let stored = store.load_record(&key(id)).await?;
        let unknown = || DeadLetterError::Unknown(id.clone());
        found.push((id.clone(), stored.ok_or_else(unknown)?));
    }
    Ok(found)
}

/// Returns whether this build can decode a dead letter.
pub fn is_readable(stored: &Versioned<Json>) -> bool {
    DeadLetter::deserialize(&stored.value).is_ok()
}

/// Returns whether the job of a dead letter is a delivery to forward.
pub fn is_delivery(stored: &Versioned<Json>) -> bool {
    DeadLetter::deserialize(&stored.value)
        .is_ok_and(|dead_letter| matches!(decode_job(&dead_letter.job), Job::Forward(_)))
}

/// Publishes the jobs of dead letters to their queues and removes the dead letters. If a job fails
/// again, its new dead letter is retained, even if the job fails before the old dead letter is
/// removed. After a crash between the two steps, both a job and its dead letter exist; executing
/// a job twice has no further effect.
///
/// While the limits of the dead letters are reached, a job that fails again might only be counted.
/// The dead letters are not removed then, and the result is `false`. One that cannot be decoded is
/// an error.
pub async fn replay(
    store: &dyn Store,
    queue: &dyn Queue,
    now: HostTime,
    dead_letters: &[(String, Versioned<Json>)],
) -> Result<bool, DeadLetterError> {
    let mut are_removed = true;
    let mut rest = dead_letters;
    while !rest.is_empty() {
        let jobs = next_jobs(rest, now)?;
        let (group, others) = rest.split_at(jobs.len());
        rest = others;
        for queue_name in QueueName::ALL {
            let jobs = jobs.iter().filter(|job| queue_of(job) == queue_name);
            let jobs: Vec<Job> = jobs.cloned().collect();
            if !jobs.is_empty() {
                queue.publish(queue_name, &jobs).await?;
            }
        }
        if Usage::load(store, now).await?.is_full() {
            are_removed = false;
        } else {
            // A job may have failed again, with a newer version of its dead letter.
            remove_versions(store, group).await?;
        }
    }
    Ok(are_removed)
}

/// Returns the jobs of the first dead letters: as many as fit into [`MAX_MESSAGE_BYTES`], so that
/// they are published before the deadline of a publish, and at least one.
fn next_jobs(
    dead_letters: &[(String, Versioned<Json>)],
    now: HostTime,
) -> Result<Vec<Job>, StoreError> {
    let (mut jobs, mut bytes) = (Vec::new(), 0);
    for (id, stored) in dead_letters {
        let dead_letter: DeadLetter = decode_record(&key(id), stored.value.clone())?;
        bytes += dead_letter.job.len();
        if bytes > MAX_MESSAGE_BYTES && !jobs.is_empty() {
            break;
        }
        jobs.push(match decode_job(&dead_letter.job) {
            // The age of a delivery counts from its replay, so that it is forwarded although it is old.
            Job::Forward(delivery) => Job::Forward(ForwardedDelivery {
                replayed_at: Some(now),
                ..delivery
            }),
            job => job,
        });
    }
    Ok(jobs)
}

/// Returns the queue of a job.
fn queue_of(job: &Job) -> QueueName {
    match job {
        Job::Poll(claim) => claim.queue,
        Job::Forward(_) => QueueName::Forwards,
        Job::Webhook { .. } | Job::Unreadable(_) | Job::Erase(_) => QueueName::Webhooks,
    }
}

/// Deletes dead letters, also those that were written again since they were loaded.
pub async fn discard(
    store: &dyn Store,
    dead_letters: &[(String, Versioned<Json>)],
) -> Result<(), StoreError> {
    let outcomes = remove_versions(store, dead_letters).await?;
    for ((id, _), outcome) in dead_letters.iter().zip(outcomes) {
        if outcome == CommitOutcome::Stale {
            remove(store, id).await?;
        }
    }
    Ok(())
}

/// Deletes a dead letter if it still has the version with which it was loaded. Returns whether it did.
pub async fn discard_version(
    store: &dyn Store,
    dead_letter: (String, Versioned<Json>),
) -> Result<bool, StoreError> {
    let outcomes = remove_versions(store, &[dead_letter]).await?;
    Ok(outcomes == [CommitOutcome::Applied])
}

/// Removes each dead letter if it still has the version with which it was loaded.
async fn remove_versions(
    store: &dyn Store,
    dead_letters: &[(String, Versioned<Json>)],
) -> Result<Vec<CommitOutcome>, StoreError> {
    let commit = |(id, stored): &(String, Versioned<Json>)| Commit {
        records: remove_writes(id, stored),
        ..Commit::default()
    };
    let commits: Vec<Commit> = dead_letters.iter().map(commit).collect();
    store.commit(&commits).await
}
