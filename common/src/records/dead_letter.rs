//! Dead letters: jobs that could not be done, kept with the reason and everything needed to try
//! again. A letter's id is its job's, so the same job kept twice is one letter.

use std::collections::BTreeSet;
use std::time::Duration;

use model::id::PageId;
use model::job::{Job, JobId, Unreadable, decode_job, encode_job};
use model::page::Status;
use model::queue_name::QueueName;
use model::time::HostTime;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::queue::Queue;
use crate::queue::error::QueueError;
use crate::store::{
    Commit, CommitOutcome, RecordKey, RecordKind, RecordWrite, Store, StoreError, StoredPage,
    Versioned,
};

/// How long a letter is kept: it may hold what people wrote.
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// One kept job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Why it was kept: the shape of the trouble, never a value.
    pub reason: String,
    /// The job in its wire form.
    pub job: String,
    /// When it was kept, on our clock.
    pub failed_at: HostTime,
    /// Whether the job is still to be tried alone.
    #[serde(default)]
    pub retry: RetryState,
}

/// A job kept only because its message was delivered too often is tried once, alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryState {
    /// Nothing is to be tried: the letter is for a person.
    #[default]
    Finished,
    /// Nobody has tried it yet.
    Pending,
    /// This process began to try it. If the process lives, an outage came between; if it died,
    /// this job may be why.
    InProgress(String),
}

/// Why a letter could not be replayed or discarded.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// There is no such letter.
    #[error("there is no dead letter {0}: `pagesync dead-letter list` shows what there is")]
    Unknown(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue failed; the letter stands.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// The id of the letter for a job.
pub fn id(job: &Job) -> String {
    JobId::from_encoded(&encode_job(job)).as_str().to_owned()
}

/// The write that keeps a job.
pub fn dead_letter_write(job: &Job, reason: &str, now: HostTime, trial: RetryState) -> RecordWrite {
    let letter = DeadLetter {
        reason: reason.to_owned(),
        job: encode_job(job),
        failed_at: now,
        retry: trial,
    };
    put(id(job), &letter, None)
}

fn put(id: String, letter: &DeadLetter, expected: Option<u64>) -> RecordWrite {
    let body = serde_json::to_value(letter)
        .unwrap_or_else(|error| unreachable!("plain data encodes: {error}"));
    RecordWrite::Put {
        key: RecordKey::new(RecordKind::DeadLetter, id),
        body,
        expected,
        ttl: Some(RETENTION),
    }
}

/// The write that removes a letter; with `expected`, only that version of it.
pub fn remove_write(id: &str, expected: Option<u64>) -> RecordWrite {
    RecordWrite::Delete {
        key: RecordKey::new(RecordKind::DeadLetter, id),
        expected,
    }
}

/// Takes the right to try a letter alone for `process`; only one gets it. `None`: it is settled, or
/// another process has it.
pub async fn begin_retry(
    store: &dyn Store,
    id: &str,
    process: &str,
) -> Result<Option<DeadLetter>, StoreError> {
    let Some(Versioned {
        version,
        value: mut letter,
    }) = find(store, id).await?
    else {
        return Ok(None);
    };
    match &letter.retry {
        RetryState::Finished => return Ok(None),
        RetryState::InProgress(other) if other != process => return Ok(None),
        RetryState::InProgress(_) => return Ok(Some(letter)),
        RetryState::Pending => {}
    }
    letter.retry = RetryState::InProgress(process.to_owned());
    let taken = write(store, put(id.to_owned(), &letter, Some(version))).await?;
    Ok((taken == CommitOutcome::Applied).then_some(letter))
}

/// Says where the trial of a letter stands. A letter that was written meanwhile stands as it is.
pub async fn set_retry_state(
    store: &dyn Store,
    id: &str,
    trial: RetryState,
) -> Result<(), StoreError> {
    if let Some(Versioned { version, value }) = find(store, id).await? {
        let letter = DeadLetter {
            retry: trial,
            ..value
        };
        write(store, put(id.to_owned(), &letter, Some(version))).await?;
    }
    Ok(())
}

async fn write(store: &dyn Store, write: RecordWrite) -> Result<CommitOutcome, StoreError> {
    let commit = Commit {
        records: vec![write],
        ..Commit::default()
    };
    let outcomes = store.commit(&[commit]).await?;
    Ok(outcomes.into_iter().next().unwrap_or(CommitOutcome::Stale))
}

async fn find(store: &dyn Store, id: &str) -> Result<Option<Versioned<DeadLetter>>, StoreError> {
    let found = store
        .load_record(&RecordKey::new(RecordKind::DeadLetter, id))
        .await?;
    found
        .map(|Versioned { version, value }| {
            Ok(Versioned {
                version,
                value: read(value)?,
            })
        })
        .transpose()
}

fn read(body: Json) -> Result<DeadLetter, StoreError> {
    serde_json::from_value(body)
        .map_err(|error| StoreError::Unexpected(format!("a dead letter: {error}")))
}

/// Every letter there is, in the order of their ids. One that cannot be decoded is left out: it must
/// not hide the others.
pub async fn all(store: &dyn Store) -> Result<Vec<(String, DeadLetter)>, StoreError> {
    const AT_ONCE: usize = 500;
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let found = store
            .list_records(RecordKind::DeadLetter, after.as_deref(), AT_ONCE)
            .await?;
        let Some((last, _)) = found.last() else {
            return Ok(all);
        };
        after = Some(last.id.clone());
        for (key, Versioned { value, .. }) in found {
            match read(value) {
                Ok(letter) => all.push((key.id, letter)),
                Err(error) => {
                    tracing::error!(dead_letter.id = key.id, error = %error, "a dead letter cannot be decoded");
                }
            }
        }
    }
}

/// One letter.
pub async fn show(store: &dyn Store, id: &str) -> Result<DeadLetter, DeadLetterError> {
    let found = find(store, id)
        .await?
        .ok_or_else(|| DeadLetterError::Unknown(id.to_owned()))?;
    Ok(found.value)
}

/// Puts the job into its queue again and removes the letter. If the job fails again, even before the
/// letter is removed, it is kept again. A crash in between leaves both, and doing the job twice has
/// no effect.
pub async fn replay(store: &dyn Store, queue: &dyn Queue, id: &str) -> Result<(), DeadLetterError> {
    let unknown = || DeadLetterError::Unknown(id.to_owned());
    let Versioned { version, value } = find(store, id).await?.ok_or_else(unknown)?;
    let job = decode_job(&value.job);
    let queue_name = match &job {
        Job::Poll(claim) => claim.queue,
        Job::Webhook { .. } | Job::Unreadable(_) | Job::Erase(_) => QueueName::Webhooks,
    };
    queue.publish(queue_name, &[job]).await?;
    // Only the version that was replayed: a worker that failed again has written a newer one.
    write(store, remove_write(id, Some(version))).await?;
    Ok(())
}

/// Removes a letter for good.
pub async fn discard(store: &dyn Store, id: &str) -> Result<(), DeadLetterError> {
    show(store, id).await?;
    write(store, remove_write(id, None)).await?;
    Ok(())
}

/// Removes every letter that mentions one of these ids: of Pages, of people. Answers with how many.
pub async fn erase(store: &dyn Store, ids: &[String]) -> Result<u64, StoreError> {
    let mut erased = 0;
    for (id, letter) in all(store).await? {
        let text = format!("{}\n{}", letter.reason, body_text(&letter));
        // An erasure that waits to be tried again is no trace of the past.
        let is_erasure = matches!(decode_job(&letter.job), Job::Erase(_));
        if !is_erasure && ids.iter().any(|id| contains_number(&text, id)) {
            write(store, remove_write(&id, None)).await?;
            erased += 1;
        }
    }
    Ok(erased)
}

/// Whether a text names a Page that was forgotten.
pub async fn mentions_erased_page(store: &dyn Store, text: &str) -> Result<bool, StoreError> {
    // A body of many Pages has as many ids; more than a delivery can hold are not looked at.
    const AT_MOST: usize = 2000;
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    let ids: BTreeSet<PageId> = numbers
        .filter_map(|n| PageId::parse(n).ok())
        .take(AT_MOST)
        .collect();
    let ids: Vec<PageId> = ids.into_iter().collect();
    for some in ids.chunks(200) {
        let is_forgotten = |stored: &Versioned<StoredPage>| matches!(&stored.value, StoredPage::Page(page) if page.status == Status::Erased);
        if store.load_pages(some).await?.iter().any(is_forgotten) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a text has these digits as a number of their own.
fn contains_number(text: &str, digits: &str) -> bool {
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    text.match_indices(digits).any(|(at, _)| {
        let (before, rest) = text.split_at(at);
        !is_digit(before.chars().next_back()) && !is_digit(rest[digits.len()..].chars().next())
    })
}

/// What a person should see of the job: the bytes that came, as text where they are text.
pub fn body_text(letter: &DeadLetter) -> String {
    job_text(&decode_job(&letter.job))
}

/// What came over the wire, as text where it is text.
pub fn job_text(job: &Job) -> String {
    match job {
        Job::Unreadable(Unreadable { body, .. }) => String::from_utf8_lossy(body).into_owned(),
        Job::Webhook { entry, .. } => entry.as_str().to_owned(),
        Job::Poll(_) | Job::Erase(_) => encode_job(job),
    }
}
