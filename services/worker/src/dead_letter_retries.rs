//! Retries dead letters: those whose retry is pending, and those that may succeed in this build.
//!
//! Invariant: a dead letter is removed only after its job has succeeded. If a retry ends the process,
//! the dead letter still has the name of that process, and no other process retries it.

use std::panic::AssertUnwindSafe;

use common::records::dead_letter::{self, DeadLetter, RetryState, UNREADABLE_DATA_PREFIX};
use common::store::StoreError;
use futures_util::FutureExt as _;
use model::job::{Job, NEWER_VERSION_PREFIX, UNKNOWN_KIND, Unreadable, decode_job};

use crate::context::Context;
use crate::dispatch;

/// Retries the job of a dead letter, unless the dead letter is final or another process has
/// reserved the retry.
async fn retry_job(context: &Context, id: &str) -> Result<(), StoreError> {
    match dead_letter::begin_retry(&*context.store, id, &context.process, context.clock.now())
        .await?
    {
        Some(dead_letter) => run_retry(context, id, &dead_letter).await,
        None => Ok(()),
    }
}

/// Executes the job of a dead letter. If the job succeeds, its dead letter is deleted; if the job
/// fails or panics, its dead letter becomes final. Fails if the store does not answer; the retry is
/// then pending again.
async fn run_retry(
    context: &Context,
    id: &str,
    dead_letter: &DeadLetter,
) -> Result<(), StoreError> {
    let store = &*context.store;
    let job = decode_job(&dead_letter.job);
    let set_state = |state| dead_letter::set_retry_state(store, id, state, context.clock.now());
    let outcome = AssertUnwindSafe(dispatch::apply_single_job(context, &job))
        .catch_unwind()
        .await;
    match outcome {
        Ok(Ok(true)) => dead_letter::remove(store, id).await,
        Ok(Ok(false)) if was_unknown(dead_letter) => {
            // The job in it has a dead letter of its own now, so this one is not retried again.
            let reason = format!(
                "failed again when it was retried; before: {}",
                dead_letter.reason
            );
            dead_letter::end_retry(store, id, &reason, context.clock.now()).await
        }
        Ok(Ok(false)) => set_state(RetryState::Final).await,
        Ok(Err(StoreError::Unexpected(reason))) => {
            tracing::error!(
                dead_letter.id = id,
                reason,
                "a job stays a dead letter, because it needs stored data that this build cannot read"
            );
            let reason = format!("{UNREADABLE_DATA_PREFIX}{reason}");
            dead_letter::end_retry(store, id, &reason, context.clock.now()).await
        }
        Ok(Err(error)) => {
            // If this write fails too, the retry stays reserved for this process, which repeats it.
            let _ = set_state(RetryState::Pending).await;
            Err(error)
        }
        Err(_panic) => {
            tracing::error!(
                dead_letter.id = id,
                "the execution of a job panicked; the job stays a dead letter"
            );
            context.metrics.dead_letters.count("panic");
            set_state(RetryState::Final).await
        }
    }
}

/// Returns whether the build that stored a dead letter did not know the form of its job.
fn was_unknown(DeadLetter { reason, .. }: &DeadLetter) -> bool {
    reason.starts_with(NEWER_VERSION_PREFIX) || reason == UNKNOWN_KIND
}

/// Returns whether a final dead letter may succeed in this build: its job needed stored data that
/// could not be read, or has a form that this build can decode.
fn may_succeed_now(dead_letter: &DeadLetter) -> bool {
    let reason = &dead_letter.reason;
    if reason.starts_with(UNREADABLE_DATA_PREFIX) {
        return true;
    }
    let is_known_now = |body: &[u8]| {
        let decoded = decode_job(&String::from_utf8_lossy(body));
        !matches!(decoded, Job::Unreadable(_))
    };
    was_unknown(dead_letter)
        && matches!(decode_job(&dead_letter.job), Job::Unreadable(Unreadable { body, .. }) if is_known_now(&body))
}

/// Retries the dead letters whose retry is pending or was interrupted in this process, and those
/// that may succeed in this build although they failed in an earlier one. It is called at the start
/// of a worker and after a store outage. Fails if the store does not answer.
pub async fn retry_pending(context: &Context) -> Result<(), StoreError> {
    let (store, mut after) = (&*context.store, None);
    while let Some(chunk) = dead_letter::next_retryable(store, &mut after).await? {
        for (id, dead_letter) in chunk {
            if context.lifecycle.is_stopping() {
                return Ok(());
            }
            if dead_letter.retry != RetryState::Final {
                retry_job(context, &id).await?;
            } else if may_succeed_now(&dead_letter) {
                let (pending, now) = (RetryState::Pending, context.clock.now());
                dead_letter::set_retry_state(store, &id, pending, now).await?;
                retry_job(context, &id).await?;
            }
        }
    }
    Ok(())
}
