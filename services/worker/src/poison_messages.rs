//! Messages that came too often, and letters worth another try.
//!
//! A message on its third delivery may be one that kills the process, and it may carry 255 innocent
//! jobs. So: every job of it is kept as an untried dead letter, the message is acknowledged, then
//! each job is tried once, alone. A job that succeeds loses its letter. One that kills the process
//! leaves its letter behind, marked with the process that tried it; the next start tries the rest.
//! A trial that an outage of the store cut short is taken up again when the store is back.

use std::panic::AssertUnwindSafe;

use common::queue::delivery::Delivery;
use common::records::dead_letter::{self, RetryState};
use common::store::{Commit, StoreError};
use futures_util::FutureExt as _;
use model::job::{Job, NEWER_VERSION, UNKNOWN_KIND, Unreadable, decode_job};

use crate::acknowledge::acknowledge;
use crate::context::Context;
use crate::dispatch;

/// Takes a suspicious delivery apart.
pub(crate) async fn split_delivery(
    context: &Context,
    delivery: Delivery,
) -> Result<(), StoreError> {
    let reason = format!("delivered {} times without success", delivery.attempt);
    tracing::warn!(
        delivery.attempt,
        delivery.jobs = delivery.jobs.len(),
        "taking a delivery apart"
    );
    let now = context.clock.now();
    let keep = |job| Commit {
        records: vec![dead_letter::dead_letter_write(
            job,
            &reason,
            now,
            RetryState::Pending,
        )],
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
        context.store.commit(&letters).await?;
    }
    let ids: Vec<String> = kept().map(dead_letter::id).collect();
    acknowledge(context, delivery).await;
    for id in ids {
        retry_job(context, &id).await?;
    }
    Ok(())
}

/// Tries the job of a letter, unless it is settled or another process does.
async fn retry_job(context: &Context, id: &str) -> Result<(), StoreError> {
    match dead_letter::begin_retry(&*context.store, id, &context.process).await? {
        Some(letter) => run_retry(context, id, &decode_job(&letter.job)).await,
        None => Ok(()),
    }
}

/// Does the job of a letter once more; on success the letter goes, else it is settled. `Err`: the
/// store is away, and nothing is decided.
async fn run_retry(context: &Context, id: &str, job: &Job) -> Result<(), StoreError> {
    let done = AssertUnwindSafe(dispatch::apply_single_job(context, job))
        .catch_unwind()
        .await;
    match done {
        Ok(Ok(true)) => {
            let remove = Commit {
                records: vec![dead_letter::remove_write(id, None)],
                ..Commit::default()
            };
            context.store.commit(&[remove]).await.map(drop)
        }
        Ok(Ok(false)) => {
            dead_letter::set_retry_state(&*context.store, id, RetryState::Finished).await
        }
        Ok(Err(error)) => {
            // As far as the store allows: whoever looks next may try it again.
            let _ = dead_letter::set_retry_state(&*context.store, id, RetryState::Pending).await;
            Err(error)
        }
        Err(_panic) => {
            tracing::error!(
                dead_letter.id = id,
                "a job panicked the worker; it stays a dead letter"
            );
            context.metrics.dead_letters.count("panic");
            dead_letter::set_retry_state(&*context.store, id, RetryState::Finished).await
        }
    }
}

/// Goes through all letters: tries those nobody tried or this process could not finish, and does
/// those whose version is no longer newer than this build. Runs at the start and after an outage.
pub async fn retry_pending(context: &Context) -> Result<(), StoreError> {
    for (id, letter) in dead_letter::all(&*context.store).await? {
        if letter.retry != RetryState::Finished {
            retry_job(context, &id).await?;
        } else if (letter.reason.starts_with(NEWER_VERSION) || letter.reason == UNKNOWN_KIND)
            && let Job::Unreadable(Unreadable { body, .. }) = decode_job(&letter.job)
            && !matches!(
                decode_job(&String::from_utf8_lossy(&body)),
                Job::Unreadable(_)
            )
        {
            dead_letter::set_retry_state(&*context.store, &id, RetryState::Pending).await?;
            retry_job(context, &id).await?;
        }
    }
    Ok(())
}
