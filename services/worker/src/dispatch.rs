//! Dispatch: sorts the jobs of a group by kind and executes them.
//!
//! Invariant: when [`apply_jobs`] returns `Ok`, each job of the group was executed or is stored as
//! a dead letter.

use std::collections::BTreeMap;

use common::records::dead_letter::{self, RetryState, UNREADABLE_DATA_PREFIX};
use common::records::probe;
use common::store::{Commit, RecordWrite, StoreError};
use model::id::PageId;
use model::job::{Claim, ErasureRequest, Job, Unreadable, decode_job};
use model::time::HostTime;
use model::webhook::{EntryId, ParsedWebhook, ProfileEntry, parse_webhook};

use crate::apply::{EntryNotifications, apply_notifications};
use crate::context::Context;
use crate::poll;

/// A dead letter that is not written yet.
#[derive(Debug)]
struct UnwrittenDeadLetter {
    /// The id of the dead letter.
    id: String,
    /// The write of the dead letter.
    write: RecordWrite,
    /// The text of the job, in which the ids of erased Pages are searched.
    text: String,
}

/// The jobs of a group, sorted by kind.
#[derive(Debug, Default)]
struct JobBatch {
    /// The notifications, by Page.
    pages: BTreeMap<PageId, Vec<EntryNotifications>>,
    /// The jobs that cannot be executed.
    dead_letters: Vec<UnwrittenDeadLetter>,
    /// The requests to erase a person.
    erasures: Vec<ErasureRequest>,
    /// The commits that record the arrival of probes.
    probe_commits: Vec<Commit>,
    /// The claims of due polls.
    polls: Vec<Claim>,
}

/// Executes a group of jobs. Returns `Ok` if each job was executed or is stored as a dead letter.
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
                batch.add_dead_letter(context, job, &reason, "unreadable_data");
                execute(context, batch).await?;
            }
            applied => drop(applied?),
        }
    }
    Ok(())
}

/// Executes one job. Returns `false` if the job, or a part of it, is stored as a dead letter. Fails
/// if the store does not accept a write.
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
        }
    }

    /// Adds a dead letter for a job. `label` names the failure in the metrics.
    fn add_dead_letter(&mut self, context: &Context, job: &Job, reason: &str, label: &'static str) {
        tracing::warn!(
            reason,
            dead_letter.id = dead_letter::id(job),
            "a job is stored as a dead letter"
        );
        context.metrics.dead_letters.count(label);
        self.dead_letters.push(UnwrittenDeadLetter {
            id: dead_letter::id(job),
            write: dead_letter::dead_letter_write(
                job,
                reason,
                context.clock.now(),
                RetryState::Final,
            ),
            text: dead_letter::job_text(job),
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
                return self.add_dead_letter(context, job, &error.to_string(), "unreadable");
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
            self.add_dead_letter(context, job, problem, "unreadable");
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
            return self.add_dead_letter(context, job, &unreadable.reason, "unreadable");
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

/// Stores dead letters, except those that mention an erased Page. Returns how many are stored.
///
/// Each of them is written before the check, so that no erasure misses it: the check finds an
/// earlier erasure, and a later erasure finds the dead letter.
async fn save_dead_letters(
    context: &Context,
    dead_letters: Vec<UnwrittenDeadLetter>,
) -> Result<usize, StoreError> {
    let store = &*context.store;
    let mut stored_count = 0;
    for UnwrittenDeadLetter { id, write, text } in dead_letters {
        common::records::write_records(store, vec![write]).await?;
        if dead_letter::mentions_erased_page(store, &text).await? {
            common::records::write_records(store, vec![dead_letter::remove_write(&id, None)])
                .await?;
        } else {
            stored_count += 1;
        }
    }
    Ok(stored_count)
}

/// Executes the jobs of a group. Returns how many dead letters are stored.
async fn execute(context: &Context, mut batch: JobBatch) -> Result<usize, StoreError> {
    if !batch.probe_commits.is_empty() {
        context.store.commit(&batch.probe_commits).await?;
    }
    let stored_count = save_dead_letters(context, std::mem::take(&mut batch.dead_letters)).await?;
    for request in std::mem::take(&mut batch.erasures) {
        crate::erasure::erase(context, &request).await?;
    }
    for claim in std::mem::take(&mut batch.polls) {
        poll::poll(context, &claim).await?;
    }
    apply_notifications(context, batch.pages).await?;
    Ok(stored_count)
}
