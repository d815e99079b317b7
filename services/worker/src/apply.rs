//! Applying jobs: observations by Page, one load, one merge, one commit per Page.
//!
//! Invariant: the merge is `model`'s; this file only carries values to it and its result to the
//! store. A commit that met a newer version loads that Page again and decides again, as often as
//! it takes.

use std::collections::{BTreeMap, BTreeSet};

use common::records::dead_letter::{self, Trial};
use common::records::{drift, probe};
use common::store::{
    Commit, DueWrite, Outcome, PageWrite, RecordWrite, StoreError, Stored, Versioned,
};
use common::telemetry::{Label, Metrics};
use model::field::FieldName;
use model::id::{PageId, Subject};
use model::job::{Claim, Forget, Job, Unreadable, decode_one};
use model::page::{Change, Observation, Status};
use model::time::Millis;
use model::webhook::{EntryId, Intake, RawEntry, intake};

use crate::fresh::start_again;
use crate::{Parts, poll};

/// What one entry says of a Page.
#[derive(Debug)]
struct Notice {
    /// When it was sent, on Facebook's clock.
    sent: Option<Millis>,
    /// When it came, on ours.
    received: Millis,
    announced: BTreeSet<FieldName>,
    observations: Vec<Observation>,
}

/// A job to be kept as a dead letter.
#[derive(Debug)]
struct Letter {
    id: String,
    write: RecordWrite,
    /// What came over the wire.
    text: String,
}

/// What a group of jobs asks for.
#[derive(Debug, Default)]
struct Work {
    pages: BTreeMap<PageId, Vec<Notice>>,
    letters: Vec<Letter>,
    forgets: Vec<Forget>,
    /// Probes that came through.
    proofs: Vec<Commit>,
    polls: Vec<Claim>,
}

/// Does a group of jobs. `Ok`: everything is in the store, as state or as dead letter.
pub async fn apply(parts: &Parts, jobs: &[Job]) -> Result<(), StoreError> {
    let mut work = Work::default();
    for job in jobs {
        work.sort(parts, job);
    }
    finish(parts, work).await.map(drop)
}

/// Does one job. `Ok(false)`: it ended as a dead letter.
pub(crate) async fn apply_alone(parts: &Parts, job: &Job) -> Result<bool, StoreError> {
    let mut work = Work::default();
    work.sort(parts, job);
    Ok(finish(parts, work).await? == 0)
}

impl Work {
    fn sort(&mut self, parts: &Parts, job: &Job) {
        match job {
            Job::Webhook { entry, received } => self.webhook(parts, job, entry, *received),
            Job::Unreadable(unreadable) => self.unreadable(parts, job, unreadable),
            Job::Poll(claim) => self.polls.push(claim.clone()),
            Job::Forget(forget) => self.forgets.push(forget.clone()),
        }
    }

    fn keep(&mut self, parts: &Parts, job: &Job, reason: &str, why: &'static str) {
        tracing::warn!(
            reason,
            dead_letter.id = dead_letter::id(job),
            "a job is kept as a dead letter"
        );
        Metrics::count(&parts.metrics.dead_letters, why);
        self.letters.push(Letter {
            id: dead_letter::id(job),
            write: dead_letter::keep(job, reason, parts.clock.now(), Trial::Settled),
            text: dead_letter::wire(job),
        });
    }

    fn webhook(&mut self, parts: &Parts, job: &Job, entry: &RawEntry, received: Millis) {
        let reading = match entry.read(received, &parts.tracked) {
            Ok(reading) => reading,
            Err(reason) => return self.keep(parts, job, &reason, "unreadable"),
        };
        for (name, n) in &reading.untracked {
            parts
                .metrics
                .counted
                .get_or_create(&Label { name })
                .inc_by(*n);
        }
        if let Some(ahead) = reading.ahead {
            let seconds = ahead.as_secs();
            tracing::warn!(
                ahead.seconds = seconds,
                "a webhook is from the future of this host: its value is not kept, only that something changed. Is the clock right?"
            );
            Metrics::count(&parts.metrics.jobs_done, "from_the_future");
        }
        if let Some(problem) = reading.problems.first() {
            self.keep(parts, job, problem, "unreadable");
        }
        let EntryId::Page(id) = reading.id else {
            Metrics::count(&parts.metrics.jobs_done, "test");
            if let Some(nonce) = entry.probe() {
                self.proofs.push(Commit {
                    records: vec![probe::arrived(&nonce, parts.clock.now())],
                    ..Commit::default()
                });
            }
            return;
        };
        if !reading.announced.is_empty() {
            self.pages.entry(id).or_default().push(Notice {
                sent: reading.sent,
                received,
                announced: reading.announced,
                observations: reading.observations,
            });
        }
    }

    /// A second opinion: this build may know what the one that received it did not.
    fn unreadable(&mut self, parts: &Parts, job: &Job, unreadable: &Unreadable) {
        let text = String::from_utf8_lossy(&unreadable.body);
        let inner = decode_one(&text);
        if !matches!(inner, Job::Unreadable(_)) {
            return self.sort(parts, &inner);
        }
        let Intake {
            entries, rejected, ..
        } = intake(&unreadable.body);
        if entries.is_empty() || !rejected.is_empty() {
            return self.keep(parts, job, &unreadable.reason, "unreadable");
        }
        for entry in entries {
            self.sort(
                parts,
                &Job::Webhook {
                    entry,
                    received: unreadable.received,
                },
            );
        }
    }
}

/// Keeps letters but those of what was forgotten: an erasure that came before has looked through the
/// letters already, one that comes later will. Answers with how many stay.
async fn keep_letters(parts: &Parts, letters: Vec<Letter>) -> Result<usize, StoreError> {
    let store = &*parts.store;
    let mut kept = 0;
    for Letter { id, write, text } in letters {
        common::records::write(store, vec![write]).await?;
        if dead_letter::mentions_forgotten(store, &text).await? {
            common::records::write(store, vec![dead_letter::remove(&id, None)]).await?;
        } else {
            kept += 1;
        }
    }
    Ok(kept)
}

/// Does what jobs ask for. Answers with how many ended as dead letters.
async fn finish(parts: &Parts, mut work: Work) -> Result<usize, StoreError> {
    if !work.proofs.is_empty() {
        parts.store.commit(&work.proofs).await?;
    }
    let kept = keep_letters(parts, std::mem::take(&mut work.letters)).await?;
    for forget in std::mem::take(&mut work.forgets) {
        crate::forget::forget(parts, &forget).await?;
    }
    for claim in std::mem::take(&mut work.polls) {
        poll::poll(parts, &claim).await?;
    }
    while !work.pages.is_empty() {
        let ids: Vec<PageId> = work.pages.keys().cloned().collect();
        let loaded = parts.store.load(&ids).await?;
        let now = parts.clock.now();
        let (mut commits, mut committed) = (Vec::new(), Vec::new());
        for (id, held) in ids.into_iter().zip(loaded) {
            match work
                .pages
                .get(&id)
                .and_then(|notices| decide(parts, &id, held, notices, now))
            {
                Some(commit) => {
                    commits.push(commit);
                    committed.push(id);
                }
                None => drop(work.pages.remove(&id)),
            }
        }
        if commits.is_empty() {
            break;
        }
        let outcomes = parts.store.commit(&commits).await?;
        for ((id, outcome), commit) in committed.into_iter().zip(outcomes).zip(&commits) {
            match outcome {
                Outcome::Applied => {
                    Metrics::count(&parts.metrics.commits, "applied");
                    poll::count_drift(parts, &commit.records);
                    if let Some(notices) = work.pages.remove(&id) {
                        let now = parts.clock.now();
                        for Notice { received, .. } in notices {
                            parts
                                .metrics
                                .visible_seconds
                                .observe(received.until(now).as_secs_f64());
                        }
                    }
                }
                Outcome::Stale => Metrics::count(&parts.metrics.commits, "stale"),
            }
        }
    }
    Ok(kept)
}

/// The commit that brings a Page up to date; `None` if there is nothing to write.
fn decide(
    parts: &Parts,
    id: &PageId,
    held: Versioned<Stored>,
    notices: &[Notice],
    now: Millis,
) -> Option<Commit> {
    let done = |name| Metrics::count(&parts.metrics.jobs_done, name);
    let (before, mut page, letter) = match held.value {
        Stored::Unknown => {
            tracing::info!(page.id = %id, "a webhook for a Page that is not registered: `pagesync page add` registers it");
            done("unknown_page");
            return None;
        }
        Stored::Page(page) if page.status == Status::Forgotten => {
            done("forgotten_page");
            return None;
        }
        Stored::Page(page) => (Some((*page).clone()), *page, None),
        Stored::Corrupt(corrupt) => {
            let (page, letter) = start_again(parts, id, corrupt, now);
            (None, page, Some(letter))
        }
    };
    let mut changes: Vec<Change> = Vec::new();
    let mut findings = Vec::new();
    for notice in notices {
        for field in &notice.announced {
            let (changed, finding) = page.hear(field, notice.sent, &notice.observations);
            changes.extend(changed);
            findings.extend(finding);
        }
        page.polling
            .notice(notice.sent, notice.received, parts.verify_after);
    }
    if before.as_ref() == Some(&page) {
        done("no_change");
        return None;
    }
    done(if changes.is_empty() {
        "noted"
    } else {
        "changed"
    });
    let due = page.polling.due();
    let moved = before.is_none_or(|before| before.polling.due() != due);
    Some(Commit {
        page: Some(PageWrite {
            id: id.clone(),
            expected: held.version,
            page,
            changes,
            at: now,
        }),
        records: letter
            .into_iter()
            .chain(drift::writes(&parts.days, id, &findings, now))
            .collect(),
        guards: Vec::new(),
        due: moved
            .then(|| DueWrite {
                subject: Subject::Page(id.clone()),
                due,
            })
            .into_iter()
            .collect(),
    })
}
