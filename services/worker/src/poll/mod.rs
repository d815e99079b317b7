//! Polls: reads of Facebook that were due, and what else is done with a token.
//!
//! Invariants: every poll ends in a commit that sets the next time; a job whose subject is not due
//! does nothing; nothing sleeps while it holds a delivery; a commit made with a token is guarded by
//! the epoch of the connection it came from.

pub(crate) mod app;
mod connection;
mod grant;
mod limits;
mod listing;
mod page;
mod subscription;
mod walk;
mod walked;

use std::time::Duration;

use common::graph::error::GraphError;
use common::records::{commit, get, put};
use common::store::{Commit, DueWrite, Key, Outcome, StoreError, Versioned};
use common::telemetry::Metrics;
use model::due::Polling;
use model::id::Subject;
use model::job::Claim;
use model::time::Millis;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Parts;

/// The pauses after failures that pass by themselves.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// The pause after a failure that somebody must mend: a dead token costs one call a day.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// Does what is due.
pub(crate) async fn poll(parts: &Parts, claim: &Claim) -> Result<(), StoreError> {
    Metrics::count(&parts.metrics.polls, claim.subject.kind());
    let done = match &claim.subject {
        Subject::Page(id) => page::poll(parts, id, claim.due).await,
        Subject::Connection(user) => connection::poll(parts, user, claim).await,
        Subject::Grant(id) => grant::poll(parts, id).await,
        Subject::Subscription(page) => subscription::poll(parts, page, claim.due).await,
        Subject::App => app::poll(parts, claim.due).await,
    };
    match done {
        Err(StoreError::Unexpected(what)) => {
            // Nothing that comes again would be different: the lease brings it back.
            tracing::error!(subject = %claim.subject, what, "a poll met a record it cannot read");
            Ok(())
        }
        done => done,
    }
}

/// Whether a subject is due now, by our clock or by that of the scheduler that claimed it at `claimed`:
/// were it only ours, a scheduler whose clock is ahead would claim it again at once, and again.
fn is_due(polling: &Polling, now: Millis, claimed: Millis) -> bool {
    polling.due().is_some_and(|(_, at)| at <= now.max(claimed))
}

/// Nothing before this after `failures` failures, the last of them `error`.
fn resume(error: &GraphError, failures: u32, now: Millis) -> Millis {
    match error {
        GraphError::Token { .. }
        | GraphError::Permission(_)
        | GraphError::Missing
        | GraphError::Configuration(_) => now.plus(A_DAY),
        _ => now.plus(doubled(FIRST_PAUSE, LONGEST_PAUSE, failures)),
    }
}

/// `first`, doubled for each failure, with jitter of a fifth so that many do not come back in step.
fn doubled(first: Duration, longest: Duration, failures: u32) -> Duration {
    let whole = first.saturating_mul(1 << failures.min(16)).min(longest);
    whole.mul_f64(0.9 + fastrand::f64() / 5.0)
}

/// The write of a record and of its subject's due time.
fn save<T: Serialize>(
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
async fn settle<T: Serialize + DeserializeOwned>(
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
fn forget_due(subject: Subject, record: Key) -> Commit {
    Commit {
        due: vec![DueWrite { subject, due: None }],
        guards: vec![(record, 0)],
        ..Commit::default()
    }
}
