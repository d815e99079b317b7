//! Application of webhooks to Pages: one load, one merge and one commit per Page.
//!
//! Invariant: `model` alone decides how a notification changes a Page; this module loads and
//! commits Pages. If a commit is stale, the Page is loaded and merged again until a commit is
//! applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use common::records::{missed_webhooks, webhook_hour};
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

/// The notifications of one webhook entry for one Page.
#[derive(Debug)]
pub(crate) struct EntryNotifications {
    /// When Facebook sent the webhook, on Facebook's clock; `None` if unknown or implausible.
    pub(crate) sent_at: Option<FacebookTime>,
    /// When ingress received the webhook, on this host's clock.
    pub(crate) received_at: HostTime,
    /// The tracked fields that changed, with or without a value.
    pub(crate) notified_fields: BTreeSet<FieldName>,
    /// The values that the entry contains.
    pub(crate) observations: Vec<Observation>,
}

/// Applies notifications to their Pages. Returns when the store has accepted the changes of all
/// Pages. Fails if the store does not answer.
pub(crate) async fn apply_notifications(
    context: &Context,
    mut pages: BTreeMap<PageId, Vec<EntryNotifications>>,
) -> Result<(), StoreError> {
    let received = pages.values().flatten().map(|entry| entry.received_at);
    let last_received = received.max();
    while !pages.is_empty() {
        let ids: Vec<PageId> = pages.keys().cloned().collect();
        let loaded = context.store.load_pages(&ids).await?;
        let now = context.clock.now();
        let (mut commits, mut committed_ids) = (Vec::new(), Vec::new());
        for (id, stored) in ids.into_iter().zip(loaded) {
            let entries = pages.get(&id).map_or(&[][..], Vec::as_slice);
            match page_commit(context, &id, stored, entries, now).await? {
                Some(commit) => {
                    commits.push(commit);
                    committed_ids.push(id);
                }
                None => drop(pages.remove(&id)),
            }
        }
        if commits.is_empty() {
            break;
        }
        let outcomes = context.store.commit(&commits).await?;
        for ((id, outcome), commit) in committed_ids.into_iter().zip(outcomes).zip(&commits) {
            match outcome {
                CommitOutcome::Applied => {
                    context.metrics.page_commits.count("applied");
                    poll::count_findings(context, &commit.records);
                    if let Some(entries) = pages.remove(&id) {
                        let now = context.clock.now();
                        for EntryNotifications { received_at, .. } in entries {
                            context
                                .metrics
                                .webhook_commit_seconds
                                .observe(received_at.until(now).as_secs_f64());
                        }
                    }
                }
                CommitOutcome::Stale => context.metrics.page_commits.count("stale"),
            }
        }
    }
    if let Some(received_at) = last_received {
        record_hour(context, received_at).await;
    }
    Ok(())
}

/// Records that webhooks arrived in an hour, at most once for each hour.
async fn record_hour(context: &Context, received_at: HostTime) {
    let hour = webhook_hour::hour_of(received_at);
    if context.webhook_hour.fetch_max(hour, Ordering::Relaxed) >= hour {
        return;
    }
    if let Err(error) = webhook_hour::add(&*context.store, hour).await {
        // The next webhook tries again, and the hours only show an unusual silence.
        tracing::debug!(error = %error, "cannot record the hour of a webhook");
        context.webhook_hour.store(0, Ordering::Relaxed);
    }
}

/// Returns the commit that applies the notifications to a Page, or `None` if there is nothing to
/// write.
async fn page_commit(
    context: &Context,
    id: &PageId,
    stored: Versioned<StoredPage>,
    entries: &[EntryNotifications],
    now: HostTime,
) -> Result<Option<Commit>, StoreError> {
    let count_job = |name| context.metrics.jobs_done.count(name);
    let (before, mut page, mut records) = match stored.value {
        StoredPage::Unknown => {
            tracing::info!(page.id = %id, "a webhook is for a Page that is not registered: `pagesync page add` registers it");
            count_job("unknown_page");
            return Ok(None);
        }
        StoredPage::Page(page) if page.status == Status::Erased => {
            count_job("erased_page");
            return Ok(None);
        }
        StoredPage::Page(page) => (Some((*page).clone()), *page, Vec::new()),
        StoredPage::Corrupt(corrupt) => {
            let (page, dead_letter) = replace_corrupt_page(context, id, corrupt, now).await?;
            (None, page, dead_letter)
        }
    };
    page.polling.lower_impossible_times(now);
    page.polling.lower_verification(now, context.verify_after);
    let mut changes: Vec<Change> = Vec::new();
    let mut findings = Vec::new();
    for entry in entries {
        for field in &entry.notified_fields {
            let (changed, finding) = page.apply_webhook(field, entry.sent_at, &entry.observations);
            changes.extend(changed);
            findings.extend(finding);
        }
        page.polling
            .record_notification(entry.sent_at, entry.received_at, context.verify_after);
    }
    if before.as_ref() == Some(&page) {
        count_job("no_change");
        return Ok(None);
    }
    count_job(if changes.is_empty() {
        "notification_recorded"
    } else {
        "changed"
    });
    let due = page.polling.due();
    let due_changed = before.is_none_or(|before| before.polling.due() != due);
    records.extend(missed_webhooks::finding_writes(
        &context.daily_schedule,
        id,
        &findings,
        now,
    ));
    Ok(Some(Commit {
        page: Some(PageWrite {
            id: id.clone(),
            expected: stored.version,
            page,
            changes,
            received_at: now,
        }),
        records,
        guards: Vec::new(),
        due: due_changed
            .then(|| DueWrite {
                subject: Subject::Page(id.clone()),
                due,
            })
            .into_iter()
            .collect(),
    }))
}
