//! Dispatching jobs: what each job of a group asks for, and the order in which the group is done.
//!
//! Invariant: when [`apply`] returns `Ok`, every job of the group is in the store, as state or as a dead
//! letter.

use std::collections::BTreeMap;

use common::records::dead_letter::{self, RetryState};
use common::records::probe;
use common::store::{Commit, RecordWrite, StoreError};
use model::id::PageId;
use model::job::{Claim, ErasureRequest, Job, Unreadable, decode_job};
use model::time::HostTime;
use model::webhook::{EntryId, ParsedDelivery, ProfileEntry, parse_delivery};

use crate::apply::{WebhookNotification, apply_notifications};
use crate::context::Context;
use crate::poll;

/// A job to be kept as a dead letter.
#[derive(Debug)]
struct PendingDeadLetter {
    id: String,
    write: RecordWrite,
    /// What came over the wire.
    text: String,
}

/// What a group of jobs asks for.
#[derive(Debug, Default)]
struct JobBatch {
    pages: BTreeMap<PageId, Vec<WebhookNotification>>,
    dead_letters: Vec<PendingDeadLetter>,
    erasures: Vec<ErasureRequest>,
    /// Probes that came through.
    probe_commits: Vec<Commit>,
    polls: Vec<Claim>,
}

/// Does a group of jobs. `Ok`: everything is in the store, as state or as dead letter.
pub async fn apply_jobs(context: &Context, jobs: &[Job]) -> Result<(), StoreError> {
    let mut work = JobBatch::default();
    for job in jobs {
        work.add_job(context, job);
    }
    execute(context, work).await.map(drop)
}

/// Does one job. `Ok(false)`: it ended as a dead letter.
pub(crate) async fn apply_single_job(context: &Context, job: &Job) -> Result<bool, StoreError> {
    let mut work = JobBatch::default();
    work.add_job(context, job);
    Ok(execute(context, work).await? == 0)
}

impl JobBatch {
    fn add_job(&mut self, context: &Context, job: &Job) {
        match job {
            Job::Webhook {
                entry,
                received_at: received,
            } => self.add_webhook(context, job, entry, *received),
            Job::Unreadable(unreadable) => self.add_unreadable(context, job, unreadable),
            Job::Poll(claim) => self.polls.push(claim.clone()),
            Job::Erase(forget) => self.erasures.push(forget.clone()),
        }
    }

    fn keep_as_dead_letter(
        &mut self,
        context: &Context,
        job: &Job,
        reason: &str,
        why: &'static str,
    ) {
        tracing::warn!(
            reason,
            dead_letter.id = dead_letter::id(job),
            "a job is kept as a dead letter"
        );
        context.metrics.dead_letters.count(why);
        self.dead_letters.push(PendingDeadLetter {
            id: dead_letter::id(job),
            write: dead_letter::dead_letter_write(
                job,
                reason,
                context.clock.now(),
                RetryState::Finished,
            ),
            text: dead_letter::job_text(job),
        });
    }

    fn add_webhook(
        &mut self,
        context: &Context,
        job: &Job,
        entry: &ProfileEntry,
        received: HostTime,
    ) {
        let reading = match entry.interpret(received, &context.tracked_fields) {
            Ok(reading) => reading,
            Err(error) => {
                return self.keep_as_dead_letter(context, job, &error.to_string(), "unreadable");
            }
        };
        for (name, n) in &reading.untracked {
            context.metrics.webhook_parts_ignored.add(name, *n);
        }
        if let Some(ahead) = reading.ahead_by {
            let seconds = ahead.as_secs();
            tracing::warn!(
                ahead.seconds = seconds,
                "a webhook is from the future of this host: its value is not kept, only that something changed. Is the clock right?"
            );
            context.metrics.jobs_done.count("from_the_future");
        }
        if let Some(problem) = reading.problems.first() {
            self.keep_as_dead_letter(context, job, problem, "unreadable");
        }
        let EntryId::Page(id) = reading.id else {
            context.metrics.jobs_done.count("test");
            if let Some(nonce) = entry.probe_nonce() {
                self.probe_commits.push(Commit {
                    records: vec![probe::arrival_write(&nonce, context.clock.now())],
                    ..Commit::default()
                });
            }
            return;
        };
        if !reading.notified_fields.is_empty() {
            self.pages.entry(id).or_default().push(WebhookNotification {
                sent_at: reading.sent_at,
                received_at: received,
                notified_fields: reading.notified_fields,
                observations: reading.observations,
            });
        }
    }

    /// A second opinion: this build may know what the one that received it did not.
    fn add_unreadable(&mut self, context: &Context, job: &Job, unreadable: &Unreadable) {
        let text = String::from_utf8_lossy(&unreadable.body);
        let inner = decode_job(&text);
        if !matches!(inner, Job::Unreadable(_)) {
            return self.add_job(context, &inner);
        }
        let ParsedDelivery {
            entries, rejected, ..
        } = parse_delivery(&unreadable.body);
        if entries.is_empty() || !rejected.is_empty() {
            return self.keep_as_dead_letter(context, job, &unreadable.reason, "unreadable");
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

/// Keeps letters but those of what was forgotten: an erasure that came before has looked through the
/// letters already, one that comes later will. Answers with how many stay.
async fn save_dead_letters(
    context: &Context,
    letters: Vec<PendingDeadLetter>,
) -> Result<usize, StoreError> {
    let store = &*context.store;
    let mut kept = 0;
    for PendingDeadLetter { id, write, text } in letters {
        common::records::write_records(store, vec![write]).await?;
        if dead_letter::mentions_erased_page(store, &text).await? {
            common::records::write_records(store, vec![dead_letter::remove_write(&id, None)])
                .await?;
        } else {
            kept += 1;
        }
    }
    Ok(kept)
}

/// Does what jobs ask for. Answers with how many ended as dead letters.
async fn execute(context: &Context, mut work: JobBatch) -> Result<usize, StoreError> {
    if !work.probe_commits.is_empty() {
        context.store.commit(&work.probe_commits).await?;
    }
    let kept = save_dead_letters(context, std::mem::take(&mut work.dead_letters)).await?;
    for forget in std::mem::take(&mut work.erasures) {
        crate::erasure::erase(context, &forget).await?;
    }
    for claim in std::mem::take(&mut work.polls) {
        poll::poll(context, &claim).await?;
    }
    apply_notifications(context, work.pages).await?;
    Ok(kept)
}
