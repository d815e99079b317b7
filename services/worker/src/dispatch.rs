//! Dispatch: sorts the jobs of a group by kind and executes them.
//!
//! Invariant: when [`apply_jobs`] returns `Ok`, each job of the group was executed, is stored as a
//! dead letter or, beyond the limits of the dead letters, is counted.

use std::collections::BTreeMap;

use common::records::dead_letter::{self, UNREADABLE_DATA_PREFIX, usage::Usage};
use common::records::probe;
use common::store::{Commit, RecordWrite, StoreError};
use model::forward::ForwardedDelivery;
use model::id::PageId;
use model::job::{Claim, ErasureRequest, Job, Unreadable, decode_job};
use model::time::HostTime;
use model::webhook::{EntryId, ParsedWebhook, ProfileEntry, parse_webhook};

use crate::apply::{EntryNotifications, apply_notifications};
use crate::context::Context;
use crate::poll;
use crate::waiting_deliveries;

/// A job that failed for good and has no dead letter yet.
#[derive(Debug)]
pub(crate) struct FailedJob {
    pub(crate) job: Job,
    pub(crate) reason: String,
    /// The name of the failure in the metrics.
    pub(crate) label: &'static str,
}

/// The jobs of a group, sorted by kind.
#[derive(Debug, Default)]
struct JobBatch {
    /// The notifications, by Page.
    pages: BTreeMap<PageId, Vec<EntryNotifications>>,
    /// The jobs that cannot be executed, or a part of which cannot.
    failed_jobs: Vec<FailedJob>,
    /// The requests to erase a person.
    erasures: Vec<ErasureRequest>,
    /// The commits that record the arrival of probes.
    probe_commits: Vec<Commit>,
    /// The claims of due polls.
    polls: Vec<Claim>,
    /// The deliveries that the queue of forwarded deliveries has given up. They get records.
    forwards: Vec<ForwardedDelivery>,
}

/// Executes a group of jobs. Returns `Ok` if each job was executed, or is stored or counted as a dead
/// letter.
/// Fails if the store does not accept a write.
pub async fn apply_jobs(context: &Context, jobs: &[Job]) -> Result<(), StoreError> {
    let mut batch = JobBatch::default();
    for job in jobs {
        batch.add_job(context, job);
    }
    execute(context, batch).await.map(drop)
}

/// Executes the jobs of a group one by one. A job that fails because stored data cannot be read
/// becomes a dead letter, so that it does not affect the others. Fails if the store does not accept
/// a write.
pub(crate) async fn apply_each_job(context: &Context, jobs: &[Job]) -> Result<(), StoreError> {
    for job in jobs {
        match apply_single_job(context, job).await {
            Err(StoreError::Unexpected(reason)) => {
                let mut batch = JobBatch::default();
                let reason = format!("{UNREADABLE_DATA_PREFIX}{reason}");
                batch.add_failed_job(job, &reason, "unreadable_data");
                execute(context, batch).await?;
            }
            applied => drop(applied?),
        }
    }
    Ok(())
}

/// Executes one job. Returns `false` if the job, or a part of it, failed for good. Fails if the
/// store does not accept a write.
pub(crate) async fn apply_single_job(context: &Context, job: &Job) -> Result<bool, StoreError> {
    let mut batch = JobBatch::default();
    batch.add_job(context, job);
    Ok(execute(context, batch).await? == 0)
}

impl JobBatch {
    /// Adds a job to the jobs of its kind.
    fn add_job(&mut self, context: &Context, job: &Job) {
        match job {
            Job::Webhook { entry, received_at } => {
                self.add_webhook(context, job, entry, *received_at);
            }
            Job::Unreadable(unreadable) => self.add_unreadable(context, job, unreadable),
            Job::Poll(claim) => self.polls.push(claim.clone()),
            Job::Erase(request) => self.erasures.push(request.clone()),
            Job::Forward(delivery) => self.forwards.push(delivery.clone()),
        }
    }

    /// Adds a job that failed for good. `label` names the failure in the metrics.
    fn add_failed_job(&mut self, job: &Job, reason: &str, label: &'static str) {
        self.failed_jobs.push(FailedJob {
            job: job.clone(),
            reason: reason.to_owned(),
            label,
        });
    }

    /// Adds the notifications of a webhook entry, or the arrival of a probe. An entry with a part
    /// that cannot be read is also added as a dead letter.
    fn add_webhook(
        &mut self,
        context: &Context,
        job: &Job,
        entry: &ProfileEntry,
        received_at: HostTime,
    ) {
        let meaning = match entry.interpret(received_at, &context.tracked_fields) {
            Ok(meaning) => meaning,
            Err(error) => {
                return self.add_failed_job(job, &error.to_string(), "unreadable");
            }
        };
        for (name, n) in &meaning.ignored_fields {
            context.metrics.webhook_parts_ignored.add(name, *n);
        }
        if let Some(ahead) = meaning.ahead_by {
            let seconds = ahead.as_secs();
            tracing::warn!(
                ahead.seconds = seconds,
                "the time of a webhook is ahead of this host's clock: its values are not stored, and the Page is read instead; check the clock of this host"
            );
            context.metrics.jobs_done.count("ahead_of_clock");
        }
        if let Some(problem) = meaning.problems.first() {
            self.add_failed_job(job, problem, "unreadable");
        }
        let EntryId::Page(id) = meaning.id else {
            context.metrics.jobs_done.count("test");
            if let Some(nonce) = entry.probe_nonce() {
                self.probe_commits.push(Commit {
                    records: vec![probe::arrival_write(&nonce, context.clock.now())],
                    ..Commit::default()
                });
            }
            return;
        };
        if !meaning.notified_fields.is_empty() {
            self.pages.entry(id).or_default().push(EntryNotifications {
                sent_at: meaning.sent_at,
                received_at,
                notified_fields: meaning.notified_fields,
                observations: meaning.observations,
            });
        }
    }

    /// Parses an unreadable job once more, because this build may know a form that the receiving
    /// build did not know. Adds the jobs in it, or a dead letter.
    fn add_unreadable(&mut self, context: &Context, job: &Job, unreadable: &Unreadable) {
        let text = String::from_utf8_lossy(&unreadable.body);
        let decoded = decode_job(&text);
        if !matches!(decoded, Job::Unreadable(_)) {
            return self.add_job(context, &decoded);
        }
        let ParsedWebhook {
            entries, rejected, ..
        } = parse_webhook(&unreadable.body);
        if entries.is_empty() || !rejected.is_empty() {
            return self.add_failed_job(job, &unreadable.reason, "unreadable");
        }
        for entry in entries {
            self.add_job(
                context,
                &Job::Webhook {
                    entry,
                    received_at: unreadable.received_at,
                },
            );
        }
    }
}

/// Stores the dead letter of a job that failed for good, counts it in the metrics and logs it.
/// `others` are written in the same commit. Returns `false` if the job was only counted, because a
/// limit of the dead letters is reached.
pub(crate) async fn save_dead_letter(
    context: &Context,
    usage: &mut Usage,
    FailedJob { job, reason, label }: &FailedJob,
    others: &[RecordWrite],
) -> Result<bool, StoreError> {
    let (store, now) = (&*context.store, context.clock.now());
    let is_stored = dead_letter::save(store, usage, job, reason, now, others).await?;
    context.metrics.dead_letters.count(label);
    if is_stored {
        tracing::warn!(
            reason,
            dead_letter.id = dead_letter::id(job),
            "a job is stored as a dead letter"
        );
    } else {
        context.metrics.dead_letters.count("not_stored");
        tracing::warn!(
            reason,
            "a job failed for good and is only counted, because too many dead letters are stored: `pagesync doctor` shows the counts"
        );
    }
    Ok(is_stored)
}

/// Stores the dead letters of jobs that failed for good, except those that mention an erased Page.
/// Returns how many jobs failed, without these.
///
/// Each dead letter is written before the check, so that no erasure misses it: the check finds an
/// earlier erasure, and a later erasure finds the dead letter.
async fn save_dead_letters(
    context: &Context,
    failed_jobs: Vec<FailedJob>,
) -> Result<usize, StoreError> {
    if failed_jobs.is_empty() {
        return Ok(0);
    }
    let store = &*context.store;
    let mut usage = Usage::load(store, context.clock.now()).await?;
    let mut failed_count = 0;
    for failed in failed_jobs {
        let is_stored = save_dead_letter(context, &mut usage, &failed, &[]).await?;
        let text = dead_letter::job_text(&failed.job);
        if is_stored && dead_letter::mentions_erased_page(store, &text).await? {
            dead_letter::remove(store, &dead_letter::id(&failed.job)).await?;
        } else {
            failed_count += 1;
        }
    }
    Ok(failed_count)
}

/// Executes the jobs of a group. Returns how many of them failed for good.
async fn execute(context: &Context, mut batch: JobBatch) -> Result<usize, StoreError> {
    if !batch.probe_commits.is_empty() {
        context.store.commit(&batch.probe_commits).await?;
    }
    let failed_count = save_dead_letters(context, std::mem::take(&mut batch.failed_jobs)).await?;
    for request in std::mem::take(&mut batch.erasures) {
        crate::erasure::erase(context, &request).await?;
    }
    waiting_deliveries::store_waiting(context, std::mem::take(&mut batch.forwards)).await?;
    for claim in std::mem::take(&mut batch.polls) {
        poll::poll(context, &claim).await?;
    }
    apply_notifications(context, batch.pages).await?;
    Ok(failed_count)
}
