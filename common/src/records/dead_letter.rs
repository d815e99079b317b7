//! Dead letters: jobs that failed for good, stored with the reason so that they can be replayed.
//!
//! Invariant: the id of a dead letter is the id of its job, so a job that fails twice has one dead
//! letter.

use std::collections::BTreeSet;
use std::time::Duration;

use model::id::PageId;
use model::job::{Job, JobId, Unreadable, decode_job, encode_job};
use model::page::Status;
use model::queue_name::QueueName;
use model::time::HostTime;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{load_all, load_chunk, load_record, put_write, write_records};
use crate::queue::Queue;
use crate::queue::error::QueueError;
use crate::store::{
    CommitOutcome, RecordKey, RecordKind, RecordWrite, Store, StoreError, StoredPage, Versioned,
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

/// Returns the write that stores a job as a dead letter.
pub fn dead_letter_write(job: &Job, reason: &str, now: HostTime, retry: RetryState) -> RecordWrite {
    let dead_letter = DeadLetter {
        reason: reason.to_owned(),
        job: encode_job(job),
        failed_at: now,
        retry,
    };
    save_write(&id(job), &dead_letter, None, now)
}

fn save_write(
    id: &str,
    dead_letter: &DeadLetter,
    expected: Option<u64>,
    now: HostTime,
) -> RecordWrite {
    let ttl = time_left(dead_letter, now);
    put_write(key(id), dead_letter, expected, Some(ttl))
}

/// Returns how long a dead letter that is written at `now` is stored. A retry does not extend the
/// time of a job that may contain text that people wrote. An erasure contains none, and must not
/// expire before it is done.
fn time_left(dead_letter: &DeadLetter, now: HostTime) -> Duration {
    if matches!(decode_job(&dead_letter.job), Job::Erase(_)) {
        return RETENTION;
    }
    let left = now.until(dead_letter.failed_at.plus(RETENTION));
    // A record cannot be stored for no time at all.
    left.clamp(Duration::from_secs(1), RETENTION)
}

/// Returns the write that removes a dead letter. With `expected` it removes only that version.
pub fn remove_write(id: &str, expected: Option<u64>) -> RecordWrite {
    RecordWrite::Delete {
        key: key(id),
        expected,
    }
}

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
    }) = find(store, id).await?
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
    let write = save_write(id, &dead_letter, Some(version), now);
    let outcome = write_records(store, vec![write]).await?;
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
    if let Some(Versioned { version, value }) = find(store, id).await? {
        let dead_letter = DeadLetter { retry, ..value };
        let write = save_write(id, &dead_letter, Some(version), now);
        write_records(store, vec![write]).await?;
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
    if let Some(Versioned { version, value }) = find(store, id).await? {
        let dead_letter = DeadLetter {
            reason: reason.to_owned(),
            retry: RetryState::Final,
            ..value
        };
        let write = save_write(id, &dead_letter, Some(version), now);
        write_records(store, vec![write]).await?;
    }
    Ok(())
}

async fn find(store: &dyn Store, id: &str) -> Result<Option<Versioned<DeadLetter>>, StoreError> {
    load_record(store, &key(id)).await
}

/// Returns every dead letter with its id, in the order of the ids. A dead letter that cannot be
/// decoded is left out and logged, so that it does not hide the others.
pub async fn list(store: &dyn Store) -> Result<Vec<(String, DeadLetter)>, StoreError> {
    let found = load_all::<DeadLetter>(store, RecordKind::DeadLetter, "").await?;
    let value = |(id, stored): (String, Versioned<DeadLetter>)| (id, stored.value);
    Ok(found.into_iter().map(value).collect())
}

/// Returns one dead letter. Fails with [`DeadLetterError::Unknown`] if it does not exist.
pub async fn find_or_fail(store: &dyn Store, id: &str) -> Result<DeadLetter, DeadLetterError> {
    let found = find(store, id)
        .await?
        .ok_or_else(|| DeadLetterError::Unknown(id.to_owned()))?;
    Ok(found.value)
}

/// Publishes the job of a dead letter to its queue and removes the dead letter. If the job fails
/// again, its new dead letter is retained, even if the job fails before the old dead letter is
/// removed. After a crash between the two steps, both the job and the dead letter exist; executing
/// a job twice has no further effect.
pub async fn replay(store: &dyn Store, queue: &dyn Queue, id: &str) -> Result<(), DeadLetterError> {
    let unknown = || DeadLetterError::Unknown(id.to_owned());
    let Versioned { version, value } = find(store, id).await?.ok_or_else(unknown)?;
    let job = decode_job(&value.job);
    let queue_name = match &job {
        Job::Poll(claim) => claim.queue,
        Job::Webhook { .. } | Job::Unreadable(_) | Job::Erase(_) => QueueName::Webhooks,
    };
    queue.publish(queue_name, &[job]).await?;
    // The version is given because the job may have failed again, with a newer dead letter.
    write_records(store, vec![remove_write(id, Some(version))]).await?;
    Ok(())
}

/// Deletes a dead letter.
pub async fn discard(store: &dyn Store, id: &str) -> Result<(), DeadLetterError> {
    find_or_fail(store, id).await?;
    write_records(store, vec![remove_write(id, None)]).await?;
    Ok(())
}

/// Removes every dead letter that contains one of these ids of Pages or people. Returns how many
/// were removed.
pub async fn delete_mentioning(store: &dyn Store, ids: &[String]) -> Result<u64, StoreError> {
    let (mut erased, mut after) = (0, None);
    while let Some(chunk) =
        load_chunk::<Json>(store, RecordKind::DeadLetter, "", &mut after).await?
    {
        for (id, stored) in chunk {
            let (text, is_erasure) = searchable_text(stored.value);
            // An erasure that failed is retained, so that it can be replayed.
            if !is_erasure && ids.iter().any(|id| contains_number(&text, id)) {
                write_records(store, vec![remove_write(&id, None)]).await?;
                erased += 1;
            }
        }
    }
    Ok(erased)
}

/// Returns the text of a stored dead letter in which ids are searched, and whether its job is an
/// erasure. The text of a dead letter that this build cannot decode is its JSON.
fn searchable_text(body: Json) -> (String, bool) {
    /// The parts that every version has.
    #[derive(Deserialize)]
    struct Parts {
        job: String,
        #[serde(default)]
        reason: String,
    }
    let json = body.to_string();
    match serde_json::from_value::<Parts>(body) {
        Ok(Parts { job, reason }) => {
            let job = decode_job(&job);
            let text = format!("{reason}\n{}\n{json}", job_text(&job));
            (text, matches!(job, Job::Erase(_)))
        }
        Err(_) => (json, false),
    }
}

/// Returns whether a text contains the id of an erased Page. Only the first 2,000 numbers that have
/// the form of an id are checked.
pub async fn mentions_erased_page(store: &dyn Store, text: &str) -> Result<bool, StoreError> {
    // The limit bounds the loads. Facebook sends at most 1,000 changes in one delivery, and each
    // entry has two such numbers: its id and its time.
    const MAX_IDS: usize = 2000;
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    let ids: BTreeSet<PageId> = numbers
        .filter_map(|n| PageId::parse(n).ok())
        .take(MAX_IDS)
        .collect();
    let ids: Vec<PageId> = ids.into_iter().collect();
    for chunk in ids.chunks(200) {
        let is_erased = |stored: &Versioned<StoredPage>| matches!(&stored.value, StoredPage::Page(page) if page.status == Status::Erased);
        if store.load_pages(chunk).await?.iter().any(is_erased) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns whether a text contains these digits as a whole number, not as a part of a longer one.
pub(super) fn contains_number(text: &str, digits: &str) -> bool {
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    text.match_indices(digits).any(|(at, _)| {
        let (before, rest) = text.split_at(at);
        !is_digit(before.chars().next_back()) && !is_digit(rest[digits.len()..].chars().next())
    })
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
