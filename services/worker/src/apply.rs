//! Applying webhooks to Pages: one load, one merge, one commit per Page.
//!
//! Invariant: the merge is `model`'s; this file only carries values to it and its result to the
//! store. A commit that met a newer version loads that Page again and decides again, as often as
//! it takes.

use std::collections::{BTreeMap, BTreeSet};

use common::records::missed_webhooks;
use common::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, StoreError, StoredPage, Versioned,
};
use model::field::FieldName;
use model::id::{PageId, Subject};
use model::page::{Change, Observation, Status};
use model::time::{FacebookTime, HostTime};

use crate::context::Context;
use crate::corrupt_page::replace_corrupt_page;
use crate::poll;

/// What one entry says of a Page.
#[derive(Debug)]
pub(crate) struct WebhookNotification {
    /// When it was sent, on Facebook's clock.
    pub(crate) sent_at: Option<FacebookTime>,
    /// When it came, on ours.
    pub(crate) received_at: HostTime,
    pub(crate) notified_fields: BTreeSet<FieldName>,
    pub(crate) observations: Vec<Observation>,
}

/// Applies notices to their Pages, until the store has taken all of them.
pub(crate) async fn apply_notifications(
    context: &Context,
    mut pages: BTreeMap<PageId, Vec<WebhookNotification>>,
) -> Result<(), StoreError> {
    while !pages.is_empty() {
        let ids: Vec<PageId> = pages.keys().cloned().collect();
        let loaded = context.store.load_pages(&ids).await?;
        let now = context.clock.now();
        let (mut commits, mut committed) = (Vec::new(), Vec::new());
        for (id, stored) in ids.into_iter().zip(loaded) {
            match pages
                .get(&id)
                .and_then(|notices| page_commit(context, &id, stored, notices, now))
            {
                Some(commit) => {
                    commits.push(commit);
                    committed.push(id);
                }
                None => drop(pages.remove(&id)),
            }
        }
        if commits.is_empty() {
            break;
        }
        let outcomes = context.store.commit(&commits).await?;
        for ((id, outcome), commit) in committed.into_iter().zip(outcomes).zip(&commits) {
            match outcome {
                CommitOutcome::Applied => {
                    context.metrics.page_commits.count("applied");
                    poll::count_findings(context, &commit.records);
                    if let Some(notices) = pages.remove(&id) {
                        let now = context.clock.now();
                        for WebhookNotification {
                            received_at: received,
                            ..
                        } in notices
                        {
                            context
                                .metrics
                                .webhook_visible_seconds
                                .observe(received.until(now).as_secs_f64());
                        }
                    }
                }
                CommitOutcome::Stale => context.metrics.page_commits.count("stale"),
            }
        }
    }
    Ok(())
}

/// The commit that brings a Page up to date; `None` if there is nothing to write.
fn page_commit(
    context: &Context,
    id: &PageId,
    stored: Versioned<StoredPage>,
    notices: &[WebhookNotification],
    now: HostTime,
) -> Option<Commit> {
    let done = |name| context.metrics.jobs_done.count(name);
    let (before, mut page, letter) = match stored.value {
        StoredPage::Unknown => {
            tracing::info!(page.id = %id, "a webhook for a Page that is not registered: `pagesync page add` registers it");
            done("unknown_page");
            return None;
        }
        StoredPage::Page(page) if page.status == Status::Erased => {
            done("erased_page");
            return None;
        }
        StoredPage::Page(page) => (Some((*page).clone()), *page, None),
        StoredPage::Corrupt(corrupt) => {
            let (page, letter) = replace_corrupt_page(context, id, corrupt, now);
            (None, page, Some(letter))
        }
    };
    let mut changes: Vec<Change> = Vec::new();
    let mut findings = Vec::new();
    for notice in notices {
        for field in &notice.notified_fields {
            let (changed, finding) =
                page.apply_webhook(field, notice.sent_at, &notice.observations);
            changes.extend(changed);
            findings.extend(finding);
        }
        page.polling
            .record_notification(notice.sent_at, notice.received_at, context.verify_after);
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
            expected: stored.version,
            page,
            changes,
            received_at: now,
        }),
        records: letter
            .into_iter()
            .chain(missed_webhooks::finding_writes(
                &context.daily_schedule,
                id,
                &findings,
                now,
            ))
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
