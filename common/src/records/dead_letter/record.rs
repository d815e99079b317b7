//! The record of a dead letter, and the writes that store it.
//!
//! Invariant: a dead letter whose retry may succeed has a record of kind
//! [`RecordKind::DeadLetterRetry`] with the same id, so that a worker need not read all of them.

use std::time::Duration;

use model::forward::FORWARD_RETENTION;
use model::job::{
    Job, JobId, NEWER_VERSION_PREFIX, UNKNOWN_KIND, Unreadable, decode_job, encode_job,
};
use model::time::HostTime;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::records::put_write;
use crate::store::{RecordKey, RecordKind, RecordWrite};

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

/// Whether the worker still has to retry the job of a dead letter.
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

/// Returns the id of the dead letter of a job.
pub fn id(job: &Job) -> String {
    id_of_encoded(&encode_job(job))
}

fn id_of_encoded(job: &str) -> String {
    JobId::from_encoded(job).as_str().to_owned()
}

pub(super) fn key(id: &str) -> RecordKey {
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

    /// Returns the id of the dead letter.
    pub(super) fn id(&self) -> String {
        id_of_encoded(&self.job)
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
pub(super) fn put_writes(
    id: &str,
    dead_letter: &DeadLetter,
    expected: Option<u64>,
    now: HostTime,
) -> Vec<RecordWrite> {
    let ttl = time_left(dead_letter, now);
    let retryable = if dead_letter.is_retryable() {
        put_write(retry_key(id), &true, None, Some(ttl))
    } else {
        unlist_write(id)
    };
    vec![
        put_write(key(id), dead_letter, expected, Some(ttl)),
        retryable,
    ]
}

/// Returns whether a job is the request to erase a person, also if this build cannot read it.
pub(super) fn is_erasure(job: &Job) -> bool {
    match job {
        Job::Erase(_) => true,
        Job::Unreadable(Unreadable { body, .. }) => {
            serde_json::from_slice::<Json>(body).is_ok_and(|job| job.get("erase").is_some())
        }
        Job::Webhook { .. } | Job::Poll(_) | Job::Forward(_) => false,
    }
}

/// Returns how long a dead letter that is written at `now` is stored. A retry does not extend the
/// time of a job that may contain text that people wrote. An erasure contains none, and must not
/// expire before it is done.
fn time_left(dead_letter: &DeadLetter, now: HostTime) -> Duration {
    let job = decode_job(&dead_letter.job);
    if is_erasure(&job) {
        return RETENTION;
    }
    let ends_at = match job {
        Job::Forward(delivery) => delivery.received_at.plus(FORWARD_RETENTION),
        _ => dead_letter.failed_at.plus(RETENTION),
    };
    let left = now.until(ends_at);
    // A record cannot be stored for no time at all.
    left.clamp(Duration::from_secs(1), RETENTION)
}

/// Returns the key of the record that lists a dead letter for the retries.
pub(super) fn retry_key(id: &str) -> RecordKey {
    RecordKey::new(RecordKind::DeadLetterRetry, id)
}

/// Returns the write that excludes a dead letter from the retries.
pub(super) fn unlist_write(id: &str) -> RecordWrite {
    RecordWrite::Delete {
        key: retry_key(id),
        expected: None,
    }
}

/// Returns the job of a dead letter as text for people, as [`job_text`] does.
pub fn body_text(dead_letter: &DeadLetter) -> String {
    job_text(&decode_job(&dead_letter.job))
}

/// Returns a job as text for people: the data that Facebook sent, or the job as JSON, without what is
/// sealed. Bytes that are not UTF-8 are replaced.
pub fn job_text(job: &Job) -> String {
    match job {
        Job::Unreadable(Unreadable { body, .. }) => String::from_utf8_lossy(body).into_owned(),
        Job::Webhook { entry, .. } => entry.as_str().to_owned(),
        Job::Poll(_) | Job::Erase(_) => encode_job(job),
        Job::Forward(delivery) => json!({
            "received_at": delivery.received_at,
            "pages": delivery.pages,
            "sealed_bytes": delivery.sealed.len(),
        })
        .to_string(),
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
