//! Commits one result page of a connection poll.
//!
//! Invariant: each listed Page changes in one commit with its token, its due time and, if the Page
//! is new or no longer subscribed, the request to subscribe it. The commit is guarded by the epoch
//! of the connection.

use std::collections::BTreeMap;
use std::time::Duration;

use common::graph::calls::ListedPage;
use common::records::page_subscription::{self, PageSubscription};
use common::records::{load_decodable, missed_webhooks, put_write, token};
use common::sealing::PrivateKeys;
use common::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, RecordGuard, StoreError, StoredPage, Versioned,
};
use model::field::FieldName;
use model::id::{PageId, Subject, UserId};
use model::page::{Page, Status};
use model::read::{PageRead, ReadKind};
use model::time::{FacebookTime, HostTime};
use serde_json::Value as Json;

use super::page_subscription::{count_findings, schedule_check_if_unannounced};
use crate::context::Context;
use crate::corrupt_page::replace_corrupt_page;

/// The data that all Pages of a result page share.
pub(super) struct ResultPageContext<'a> {
    /// The person whose connection is polled.
    pub(super) user: &'a UserId,
    /// The client for whom the person connected Pages.
    pub(super) client: Option<&'a str>,
    /// When the connection poll began, on this host's clock.
    pub(super) poll_began_at: HostTime,
    /// A lower bound of the instant at which Graph answered, on Facebook's clock.
    pub(super) stamp: FacebookTime,
    /// The fields that were requested.
    pub(super) requested_fields: &'a [FieldName],
    /// Whether the person has logged in since the last complete poll.
    pub(super) logged_in_since_last_poll: bool,
    /// When the person returned from Facebook's dialog in their last login, on this host's clock.
    pub(super) consented_at: HostTime,
    /// When the Pages are read next if nothing requests an earlier read.
    pub(super) page_slot: HostTime,
    /// The keys to which tokens are sealed.
    pub(super) keys: &'a PrivateKeys,
    /// The epoch guard of the connection.
    pub(super) guard: &'a RecordGuard,
}

/// Returns the Pages of a further list that this poll has not listed with a token yet, and how many of
/// them are new. A portfolio also lists Pages on which the person has no task: without a token, they
/// are not Pages of the person. Fails if the store does not answer.
pub(super) async fn without_listed(
    context: &Context,
    user: &UserId,
    poll_began_at: HostTime,
    listed_pages: Vec<ListedPage>,
) -> Result<(Vec<ListedPage>, u64), StoreError> {
    let (mut rest, mut new) = (Vec::new(), 0);
    for listed in listed_pages
        .into_iter()
        .filter(|listed| listed.token.is_some())
    {
        let key = token::page_key(user, &listed.id);
        let stored = load_decodable::<token::StoredToken>(&*context.store, &key).await?;
        let stored = stored.and_then(|stored| stored.value);
        match stored.filter(|stored| stored.obtained_at >= poll_began_at) {
            None => new += 1,
            Some(stored) if stored.sealed.is_some() => continue,
            Some(_) => {}
        }
        rest.push(listed);
    }
    Ok((rest, new))
}

/// Commits the Pages of a result page. Returns `false` if the connection has ended, so that nothing
/// more may be written for it. Fails if the store does not answer.
pub(super) async fn commit_result_page(
    context: &Context,
    result_page: &ResultPageContext<'_>,
    listed_pages: Vec<ListedPage>,
) -> Result<bool, StoreError> {
    // Facebook may list a Page twice. Its last occurrence counts.
    let mut pending: BTreeMap<PageId, ListedPage> = listed_pages
        .into_iter()
        .map(|listed| (listed.id.clone(), listed))
        .collect();
    while !pending.is_empty() {
        let ids: Vec<PageId> = pending.keys().cloned().collect();
        let (mut commit_ids, mut commits) = (Vec::new(), Vec::with_capacity(ids.len()));
        let stored = context.store.load_pages(&ids).await?;
        for (id, stored) in ids.into_iter().zip(stored) {
            match page_commit(context, result_page, &pending[&id], stored).await? {
                Some(commit) => {
                    commit_ids.push(id);
                    commits.push(commit);
                }
                None => drop(pending.remove(&id)),
            }
        }
        for (id, commit) in commit_ids.iter().zip(&commits) {
            schedule_check_if_unannounced(context, id, &commit.records).await?;
        }
        let outcomes = context.store.commit(&commits).await?;
        let mut stale = false;
        for ((id, outcome), committed) in commit_ids.iter().zip(outcomes).zip(&commits) {
            stale |= outcome == CommitOutcome::Stale;
            if outcome == CommitOutcome::Applied {
                pending.remove(id);
                count_findings(context, &committed.records);
            }
        }
        if stale {
            let stored = context
                .store
                .load_record(&result_page.guard.key)
                .await?
                .map_or(0, |stored| stored.version);
            if stored != result_page.guard.version {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Returns the client of a listed Page. People of different clients can manage the same Page: the last
/// login decides, and not the last poll.
fn client_of(result_page: &ResultPageContext<'_>, present: Option<String>) -> Option<String> {
    if present.is_some() && !result_page.logged_in_since_last_poll {
        return present;
    }
    result_page.client.map(str::to_owned).or(present)
}

/// Returns the commit that writes a listed Page, or `None` if the Page was erased and the person
/// has not consented again since.
async fn page_commit(
    context: &Context,
    result_page: &ResultPageContext<'_>,
    listed: &ListedPage,
    stored: Versioned<StoredPage>,
) -> Result<Option<Commit>, StoreError> {
    let now = context.clock.now();
    let mut commit = Commit {
        guards: vec![result_page.guard.clone()],
        ..Commit::default()
    };
    let mut page = match stored.value {
        StoredPage::Page(page) if page.status != Status::Erased => *page,
        StoredPage::Page(page) if page.erasure_requested_at >= Some(result_page.consented_at) => {
            return Ok(None);
        }
        StoredPage::Unknown | StoredPage::Page(_) => Page::default(),
        StoredPage::Corrupt(corrupt) => {
            let (page, dead_letter) =
                replace_corrupt_page(context, &listed.id, corrupt, now).await?;
            commit.records.extend(dead_letter);
            page
        }
    };
    page.connections.insert(result_page.user.clone());
    page.client = client_of(result_page, page.client);
    let outcome = page.apply_read(&PageRead {
        requested_fields: result_page.requested_fields,
        object: &listed.object,
        stamp: result_page.stamp,
        kind: ReadKind::Accounts,
        now,
    });
    page.remove_untracked(&context.tracked_fields);
    let schedule = &context.daily_schedule;
    let findings = &outcome.findings;
    commit.records.extend(missed_webhooks::finding_writes(
        schedule, &listed.id, findings, now,
    ));
    let began_at = result_page.poll_began_at;
    page.polling
        .complete_read(began_at, result_page.stamp, result_page.page_slot);
    let key = token::page_key(result_page.user, &listed.id);
    let page_token = listed.token.as_ref();
    let public_key = result_page.keys.current();
    match token::seal_write(key, page_token, public_key, began_at) {
        Ok(write) => commit.records.push(write),
        Err(error) => return Err(StoreError::Unexpected(error.to_string())),
    }
    if page_token.is_some() {
        if outcome.needs_second_read {
            // The request is later than the start of this read, because this read would otherwise
            // answer it.
            page.polling
                .request_read(now.max(began_at.plus(Duration::from_millis(1))));
            page.polling.requested_by_login |= result_page.logged_in_since_last_poll;
        }
        request_check_if_needed(context, result_page, listed, &mut commit).await?;
    } else {
        context.metrics.graph_replies.count("page_without_token");
        if page.connections.len() == 1 {
            page.status = Status::NoToken;
        }
    }
    commit.due.push(DueWrite {
        subject: Subject::Page(listed.id.clone()),
        due: page.polling.due(),
    });
    commit.page = Some(PageWrite {
        id: listed.id.clone(),
        expected: stored.version,
        page,
        changes: outcome.changes,
        received_at: now,
    });
    Ok(Some(commit))
}

/// Adds a request to check the Page subscription to a commit, if there is a reason for a check.
async fn request_check_if_needed(
    context: &Context,
    result_page: &ResultPageContext<'_>,
    listed: &ListedPage,
    commit: &mut Commit,
) -> Result<(), StoreError> {
    let is_unsubscribed = listed.object.get("is_webhooks_subscribed") == Some(&Json::Bool(false));
    let key = page_subscription::key(&listed.id);
    let stored = load_decodable::<PageSubscription>(&*context.store, &key).await?;
    let (version, mut value) = match stored {
        None => (0, PageSubscription::default()),
        Some(Versioned {
            version,
            value: Some(value),
        }) => (version, value),
        // A record that this build cannot decode must not fail the poll of the other Pages.
        Some(Versioned { value: None, .. }) => return Ok(()),
    };
    let is_requested = value.polling.has_open_notification_or_request();
    let is_incomplete =
        is_unsubscribed || is_requested || !value.refused.is_empty() || value.problem.is_some();
    let is_reset = result_page.logged_in_since_last_poll && is_incomplete;
    if is_reset {
        value.reset_after_login();
    }
    if !is_reset && !value.needs_check(is_unsubscribed, &context.webhook_fields) {
        return Ok(());
    }
    value.polling.request_read(context.clock.now());
    value.polling.requested_by_login |= result_page.logged_in_since_last_poll;
    commit.due.push(DueWrite {
        subject: Subject::PageSubscription(listed.id.clone()),
        due: value.polling.due(),
    });
    commit
        .records
        .push(put_write(key, &value, Some(version), None));
    Ok(())
}
