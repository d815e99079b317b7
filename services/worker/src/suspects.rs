//! Messages that came too often, and letters worth another try.
//!
//! A message on its third delivery may be one that kills the process, and it may carry 255 innocent
//! jobs. So: every job of it is kept as an untried dead letter, the message is acknowledged, then
//! each job is tried once, alone. A job that succeeds loses its letter. One that kills the process
//! leaves its letter behind, marked with the process that tried it; the next start tries the rest.
//! A trial that an outage of the store cut short is taken up again when the store is back.

use std::panic::AssertUnwindSafe;

use common::queue::Delivery;
use common::records::dead_letter::{self, Trial};
use common::store::{Commit, StoreError};
use common::telemetry::Metrics;
use futures_util::FutureExt as _;
use model::job::{Job, NEWER_VERSION, UNKNOWN_KIND, Unreadable, decode_one};

use crate::{Parts, apply, settle};

/// Takes a suspicious delivery apart.
pub(crate) async fn take_apart(parts: &Parts, delivery: Delivery) -> Result<(), StoreError> {
    let reason = format!("delivered {} times without success", delivery.attempt);
    tracing::warn!(
        delivery.attempt,
        delivery.jobs = delivery.jobs.len(),
        "taking a delivery apart"
    );
    let now = parts.clock.now();
    let keep = |job| Commit {
        records: vec![dead_letter::keep(job, &reason, now, Trial::Untried)],
        ..Commit::default()
    };
    // A poll needs no letter: its subject is due again when the lease of its claim is over.
    let kept = || {
        delivery
            .jobs
            .iter()
            .filter(|job| !matches!(job, Job::Poll(_)))
    };
    let letters: Vec<Commit> = kept().map(keep).collect();
    if !letters.is_empty() {
        parts.store.commit(&letters).await?;
    }
    let ids: Vec<String> = kept().map(dead_letter::id).collect();
    settle(parts, delivery).await;
    for id in ids {
        try_alone(parts, &id).await?;
    }
    Ok(())
}

/// Tries the job of a letter, unless it is settled or another process does.
async fn try_alone(parts: &Parts, id: &str) -> Result<(), StoreError> {
    match dead_letter::take_trial(&*parts.store, id, &parts.process).await? {
        Some(letter) => redo(parts, id, &decode_one(&letter.job)).await,
        None => Ok(()),
    }
}

/// Does the job of a letter once more; on success the letter goes, else it is settled. `Err`: the
/// store is away, and nothing is decided.
async fn redo(parts: &Parts, id: &str, job: &Job) -> Result<(), StoreError> {
    let done = AssertUnwindSafe(apply::apply_alone(parts, job))
        .catch_unwind()
        .await;
    match done {
        Ok(Ok(true)) => {
            let remove = Commit {
                records: vec![dead_letter::remove(id, None)],
                ..Commit::default()
            };
            parts.store.commit(&[remove]).await.map(drop)
        }
        Ok(Ok(false)) => dead_letter::mark(&*parts.store, id, Trial::Settled).await,
        Ok(Err(error)) => {
            // As far as the store allows: whoever looks next may try it again.
            let _ = dead_letter::mark(&*parts.store, id, Trial::Untried).await;
            Err(error)
        }
        Err(_panic) => {
            tracing::error!(
                dead_letter.id = id,
                "a job panicked the worker; it stays a dead letter"
            );
            Metrics::count(&parts.metrics.dead_letters, "panic");
            dead_letter::mark(&*parts.store, id, Trial::Settled).await
        }
    }
}

/// Goes through all letters: tries those nobody tried or this process could not finish, and does
/// those whose version is no longer newer than this build. Runs at the start and after an outage.
pub async fn sweep(parts: &Parts) -> Result<(), StoreError> {
    for (id, letter) in dead_letter::all(&*parts.store).await? {
        if letter.trial != Trial::Settled {
            try_alone(parts, &id).await?;
        } else if (letter.reason.starts_with(NEWER_VERSION) || letter.reason == UNKNOWN_KIND)
            && let Job::Unreadable(Unreadable { body, .. }) = decode_one(&letter.job)
            && !matches!(
                decode_one(&String::from_utf8_lossy(&body)),
                Job::Unreadable(_)
            )
        {
            dead_letter::mark(&*parts.store, &id, Trial::Untried).await?;
            try_alone(parts, &id).await?;
        }
    }
    Ok(())
}
