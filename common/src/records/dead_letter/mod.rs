//! Dead letters: jobs that failed for good, stored with the reason so that they can be replayed.
//!
//! Invariants: the id of a dead letter is the id of its job, so a job that fails twice has one dead
//! letter. A commit that creates or removes a dead letter also changes the counts in [`usage`].

mod mentions;
mod retry;
pub mod usage;

pub(super) use mentions::contains_number;
pub use mentions::{delete_mentioning, mentions_erased_page};
pub use retry::{begin_retry, end_retry, next_retryable, set_retry_state};

use std::time::Duration;

use model::job::{
    Job, JobId, NEWER_VERSION_PREFIX, UNKNOWN_KIND, Unreadable, decode_job, encode_job,
};
use model::queue_name::QueueName;
use model::time::HostTime;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use self::usage::Usage;
use super::{decode_record, load_chunk, load_record, put_write, write_records};
use crate::queue::Queue;
use crate::queue::error::QueueError;
use crate::queue::messages::MAX_MESSAGE_BYTES;
use crate::store::{
    Commit, CommitOutcome, RecordKey, RecordKind, RecordWrite, Store, StoreError, Versioned,
};

/// How long a dead letter is stored. The time is limited because a dead letter may contain text
/// that people wrote.
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// The beginning of the reason of a job that needs stored data which the build could not read. Such
/// a job is retried when a worker starts and every quarter of an hour, because the data or the build
/// may be another one then.
pub const UNREADABLE_DATA_PREFIX: &str = "stored data cannot be read: ";

/// A job that failed for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The reason why the job failed. It describes the shape of the error and contains no value.
    pub reason: String,
    /// The job in its wire form.
    pub job: String,
    /// When the job failed, on this host's clock.
    pub failed_at: HostTime,
    /// Whether the worker still has to retry the job.
    #[serde(default)]
    pub retry: RetryState,
}

/// Whether the worker still has to retry the job of a dead letter. Each job of a poison message is
/// retried once, alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryState {
    /// The job failed for good. It is retried only if an operator replays it, if this build can
    /// decode a job that an earlier build could not, or if the job needed data that could not be
    /// read.
    #[default]
    Final,
    /// The job is waiting for its retry.
    Pending,
    /// The process with this name began the retry. If that process still runs, a store outage
    /// interrupted the retry; if it has ended, the job may be the cause.
    InProgress(String),
}

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

/// Returns the id of the dead letter of a job.
pub fn id(job: &Job) -> String {
    JobId::from_encoded(&encode_job(job)).as_str().to_owned()
}

fn key(id: &str) -> RecordKey {
    RecordKey::new(RecordKind::DeadLetter, id)
}

impl DeadLetter {
    /// Returns the dead letter of a job that failed for `reason` at `now` and is not pending.
    pub fn new(job: &Job, reason: &str, now: HostTime) -> Self {
        Self {
            reason: reason.to_owned(),
            job: encode_job(job),
            failed_at: now,
            retry: RetryState::Final,
        }
    }

    /// Returns whether the worker retries the job, now or when the data or the build has changed.
    fn is_retryable(&self) -> bool {
        self.retry != RetryState::Final
            || self.reason.starts_with(UNREADABLE_DATA_PREFIX)
            || self.reason.starts_with(NEWER_VERSION_PREFIX)
            || self.reason == UNKNOWN_KIND
    }
}

/// Returns the writes that store a dead letter, and list or unlist it for the retries. They do not
/// change the counts of the dead letters.
fn put_writes(
    id: &str,
    dead_letter: &DeadLetter,
    expected: Option<u64>,
    now: HostTime,
) -> Vec<RecordWrite> {
    let ttl = time_left(dead_letter, now);
    let retryable = if dead_letter.is_retryable() {
        put_write(retry::key(id), &true, None, Some(ttl))
    } else {
        retry::unlist_write(id)
    };
    vec![
        put_write(key(id), dead_letter, expected, Some(ttl)),
        retryable,
    ]
}

/// Stores a job that failed for `reason` as a dead letter, together with `others`, which are other
/// writes. If the limits of `usage` are reached, the job may only be counted; the result is then
/// `false`. A dead letter that the job already has is replaced.
pub async fn save(
    store: &dyn Store,
    usage: &mut Usage,
    job: &Job,
    reason: &str,
    now: HostTime,
    others: &[RecordWrite],
) -> Result<bool, StoreError> {
    let id = id(job);
    loop {
        let (is_stored, mut writes) = match store.load_record(&key(&id)).await? {
            Some(Versioned { version, value }) => {
                let dead_letter = DeadLetter::new(job, reason, now);
                let mut writes = put_writes(&id, &dead_letter, Some(version), now);
                writes.extend(usage::remove_writes(&value));
                writes.extend(usage::add_writes(&dead_letter));
                (true, writes)
            }
            None => usage.admit(job, reason, now),
        };
        writes.extend_from_slice(others);
        if write_records(store, writes).await? == CommitOutcome::Applied {
            return Ok(is_stored);
        }
    }
}

/// Returns whether a job is the request to erase a person, also if this build cannot read it.
fn is_erasure(job: &Job) -> bool {
    match job {
        Job::Erase(_) => true,
        Job::Unreadable(Unreadable { body, .. }) => {
            serde_json::from_slice::<Json>(body).is_ok_and(|job| job.get("erase").is_some())
        }
        Job::Webhook { .. } | Job::Poll(_) => false,
    }
}

/// Returns how long a dead letter that is written at `now` is stored. A retry does not extend the
/// time of a job that may contain text that people wrote. An erasure contains none, and must not
/// expire before it is done.
fn time_left(dead_letter: &DeadLetter, now: HostTime) -> Duration {
    if is_erasure(&decode_job(&dead_letter.job)) {
        return RETENTION;
    }
    let left = now.until(dead_letter.failed_at.plus(RETENTION));
    // A record cannot be stored for no time at all.
    left.clamp(Duration::from_secs(1), RETENTION)
}

/// Returns the writes that remove a dead letter of this version.
fn remove_writes(id: &str, stored: &Versioned<Json>) -> Vec<RecordWrite> {
    let mut writes = vec![
        RecordWrite::Delete {
            key: key(id),
            expected: Some(stored.version),
        },
        retry::unlist_write(id),
    ];
    writes.extend(usage::remove_writes(&stored.value));
    writes
}

/// Removes a dead letter, also one that cannot be decoded. Does nothing if it does not exist.
pub async fn remove(store: &dyn Store, id: &str) -> Result<(), StoreError> {
    while let Some(stored) = store.load_record(&key(id)).await? {
        let removed = write_records(store, remove_writes(id, &stored)).await?;
        if removed == CommitOutcome::Applied {
            break;
        }
    }
    Ok(())
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

/// Returns the next dead letters with their ids, in the order of the ids, as [`load_chunk`] does.
pub async fn next_chunk(
    store: &dyn Store,
    after: &mut Option<String>,
) -> Result<Option<Vec<(String, Versioned<DeadLetter>)>>, StoreError> {
    load_chunk(store, RecordKind::DeadLetter, "", after).await
}

/// Returns one dead letter. Fails with [`DeadLetterError::Unknown`] if it does not exist.
pub async fn find_or_fail(store: &dyn Store, id: &str) -> Result<DeadLetter, DeadLetterError> {
    let found = find(store, id)
        .await?
        .ok_or_else(|| DeadLetterError::Unknown(id.to_owned()))?;
    Ok(found.value)
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

/// Returns the next dead letters as they are stored, as [`next_chunk`] does, also those that cannot
/// be decoded.
pub async fn next_stored(
    store: &dyn Store,
    after: &mut Option<String>,
) -> Result<Option<Vec<(String, Versioned<Json>)>>, StoreError> {
    load_chunk(store, RecordKind::DeadLetter, "", after).await
}

/// Returns whether this build can decode a dead letter.
pub fn is_readable(stored: &Versioned<Json>) -> bool {
    DeadLetter::deserialize(&stored.value).is_ok()
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
        let (group, jobs);
        (group, jobs, rest) = next_group(rest)?;
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

/// Dead letters as they are stored, with their ids.
type StoredLetters<'a> = &'a [(String, Versioned<Json>)];

/// Returns the first dead letters, whose jobs fit one message or of which there is one, their jobs,
/// and the other dead letters.
fn next_group(
    dead_letters: StoredLetters<'_>,
) -> Result<(StoredLetters<'_>, Vec<Job>, StoredLetters<'_>), StoreError> {
    let (mut jobs, mut bytes) = (Vec::new(), 0);
    for (id, stored) in dead_letters {
        let dead_letter: DeadLetter = decode_record(&key(id), stored.value.clone())?;
        bytes += dead_letter.job.len();
        if bytes > MAX_MESSAGE_BYTES && !jobs.is_empty() {
            break;
        }
        jobs.push(decode_job(&dead_letter.job));
    }
    let (group, rest) = dead_letters.split_at(jobs.len());
    Ok((group, jobs, rest))
}

/// Returns the queue of a job.
fn queue_of(job: &Job) -> QueueName {
    match job {
        Job::Poll(claim) => claim.queue,
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

/// Returns the job of a dead letter as text for people, as [`job_text`] does.
pub fn body_text(dead_letter: &DeadLetter) -> String {
    job_text(&decode_job(&dead_letter.job))
}

/// Returns a job as text for people: the data that Facebook sent, or the job as JSON. Bytes that
/// are not UTF-8 are replaced.
pub fn job_text(job: &Job) -> String {
    match job {
        Job::Unreadable(Unreadable { body, .. }) => String::from_utf8_lossy(body).into_owned(),
        Job::Webhook { entry, .. } => entry.as_str().to_owned(),
        Job::Poll(_) | Job::Erase(_) => encode_job(job),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::id::UserId;
    use model::job::ErasureRequest;

    #[test]
    fn a_retry_extends_the_time_of_an_erasure_only() {
        let failed_at = HostTime(1_790_000_000_000);
        let dead_letter = |job: &Job| DeadLetter {
            reason: "a test".to_owned(),
            job: encode_job(job),
            failed_at,
            retry: RetryState::Pending,
        };
        let webhook = dead_letter(&Job::Unreadable(Unreadable {
            body: b"text of a person".to_vec(),
            reason: "a test".to_owned(),
            received_at: failed_at,
        }));
        let erasure = dead_letter(&Job::Erase(ErasureRequest {
            user: UserId::parse("7").unwrap(),
            confirmation_hash: None,
            requested_at: failed_at,
            issued_at: None,
        }));
        let day = Duration::from_secs(24 * 3600);
        for (days, left) in [(0, RETENTION), (1, day * 29), (40, Duration::from_secs(1))] {
            let now = failed_at.plus(day * days);
            assert_eq!(time_left(&webhook, now), left, "after {days} days");
            assert_eq!(time_left(&erasure, now), RETENTION, "after {days} days");
        }
        // The clock of this host was ahead when the job failed.
        assert_eq!(time_left(&webhook, HostTime(1)), RETENTION);
    }
}
