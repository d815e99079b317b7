//! Executes the jobs of a message that was delivered too often.
//!
//! A message on its third delivery may contain a job that ends the process, together with up to 255
//! harmless jobs. Or it is harmless, and was only given back too often: by a slow store, a restart, or
//! a process that another job ended. Its jobs are therefore executed one at a time, each under a
//! trial (`common::records::trial`). Only a job whose trials two processes did not survive, or that
//! panics, becomes a dead letter.
//!
//! Invariants: a process executes at most one job other than a poll under a trial at a time, so that
//! its end leaves the trial of one such job only. The message is acknowledged after each of its jobs
//! was executed, or is stored or counted as a dead letter.

use std::panic::AssertUnwindSafe;

use common::queue::delivery::Delivery;
use common::records::dead_letter::{self, usage::Usage};
use common::records::trial;
use common::records::write_records;
use common::store::StoreError;
use futures_util::FutureExt as _;
use model::job::Job;

use crate::context::Context;
use crate::dispatch::{self, FailedJob, save_dead_letter};

/// Executes the jobs of a message one at a time. Fails if the store does not answer.
pub(crate) async fn try_each_job(context: &Context, delivery: &Delivery) -> Result<(), StoreError> {
    tracing::warn!(
        delivery.attempt,
        delivery.jobs = delivery.jobs.len(),
        "a message was delivered repeatedly, and its jobs are executed one at a time"
    );
    for job in &delivery.jobs {
        // A poll may take a minute, and it never becomes a dead letter, so it needs no turn. The turn
        // of another job ends with its trial, so that the jobs of other messages get theirs.
        let _turn = match job {
            Job::Poll(_) => None,
            _ => Some(context.trial_turn.lock().await),
        };
        try_job(context, job).await?;
    }
    Ok(())
}

/// Executes one job under a trial. Fails if the store does not answer.
async fn try_job(context: &Context, job: &Job) -> Result<(), StoreError> {
    let store = &*context.store;
    let id = dead_letter::id(job);
    let begun = trial::begin(store, &id, &context.process).await;
    if begun.is_err() {
        // The trial may have been written although the store did not confirm it.
        let _ = trial::withdraw(store, &id, &context.process).await;
    }
    if !begun? {
        let reason = "two processes ended while they executed it";
        return give_up(context, job, &id, reason, "poison").await;
    }
    let jobs = std::slice::from_ref(job);
    let executed = AssertUnwindSafe(dispatch::apply_each_job(context, jobs))
        .catch_unwind()
        .await;
    match executed {
        Ok(Ok(())) => write_records(store, vec![trial::remove_write(&id)])
            .await
            .map(drop),
        Ok(Err(error)) => {
            // If this write fails, too, the trial stays until the store has recovered or the process
            // stops. It has the name of this process, which ignores it.
            let _ = trial::withdraw(store, &id, &context.process).await;
            Err(error)
        }
        Err(_panic) => give_up(context, job, &id, "its execution panicked", "panic").await,
    }
}

/// Stores a job as a dead letter and removes its trials. A poll needs no dead letter: its subject is
/// due again when the lease of its claim ends.
async fn give_up(
    context: &Context,
    job: &Job,
    id: &str,
    reason: &str,
    label: &'static str,
) -> Result<(), StoreError> {
    tracing::error!(
        dead_letter.id = id,
        reason,
        "a job is not executed again: it becomes a dead letter, or is polled again if it is a poll"
    );
    let end_of_trial = trial::remove_write(id);
    if matches!(job, Job::Poll(_)) {
        return write_records(&*context.store, vec![end_of_trial])
            .await
            .map(drop);
    }
    let mut usage = Usage::load(&*context.store, context.clock.now()).await?;
    let failed = FailedJob {
        job: job.clone(),
        reason: reason.to_owned(),
        label,
    };
    save_dead_letter(context, &mut usage, &failed, &[end_of_trial])
        .await
        .map(drop)
}
