//! One result page of a walk: what `/me/accounts` says of some Pages becomes state, one commit per
//! Page with its token, its due time and, for a Page that is new or was unsubscribed, the wish to
//! subscribe it.

use std::collections::BTreeMap;
use std::time::Duration;

use common::graph::calls::ListedPage;
use common::records::subscription::{self, Subscription};
use common::records::{load_record, missed_webhooks, put_write, token};
use common::sealing::PrivateKeys;
use common::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, RecordKey, StoreError, StoredPage, Versioned,
};
use model::field::FieldName;
use model::id::{PageId, Subject, UserId};
use model::page::{Page, Status};
use model::read::{PageRead, ReadKind};
use model::time::{FacebookTime, HostTime};
use model::webhook_field::webhook_fields;
use serde_json::Value as Json;

use super::page_subscription::{count_findings, schedule_check_of_unannounced};
use crate::context::Context;
use crate::corrupt_page::replace_corrupt_page;

/// What every Page of a result page has in common.
pub(super) struct ResultPage<'a> {
    pub(super) user: &'a UserId,
    /// When the walk began, on our clock.
    pub(super) poll_began_at: HostTime,
    /// When the result page was made at the earliest, on Facebook's clock.
    pub(super) stamp: FacebookTime,
    pub(super) requested_fields: &'a [FieldName],
    /// The person logged in since the last walk.
    pub(super) logged_in_since: bool,
    /// When they agreed to that.
    pub(super) consented_at: HostTime,
    /// When its Pages are read next if nothing happens.
    pub(super) page_slot: HostTime,
    pub(super) keys: &'a PrivateKeys,
    pub(super) guard: &'a (RecordKey, u64),
}

/// Commits a result page. `Ok(false)`: the connection was ended meanwhile, nothing more may be
/// written for it.
pub(super) async fn commit_result_page(
    context: &Context,
    listing: &ResultPage<'_>,
    accounts: Vec<ListedPage>,
) -> Result<bool, StoreError> {
    // Facebook may list a Page twice: the later is as good as the earlier.
    let mut open: BTreeMap<PageId, ListedPage> = accounts
        .into_iter()
        .map(|account| (account.id.clone(), account))
        .collect();
    while !open.is_empty() {
        let ids: Vec<PageId> = open.keys().cloned().collect();
        let (mut decided, mut commits) = (Vec::new(), Vec::with_capacity(ids.len()));
        let stored = context.store.load_pages(&ids).await?;
        for (id, stored) in ids.into_iter().zip(stored) {
            match page_commit(context, listing, &open[&id], stored).await? {
                Some(commit) => {
                    decided.push(id);
                    commits.push(commit);
                }
                None => drop(open.remove(&id)),
            }
        }
        for (id, commit) in decided.iter().zip(&commits) {
            schedule_check_of_unannounced(context, id, &commit.records).await?;
        }
        let outcomes = context.store.commit(&commits).await?;
        let mut stale = false;
        for ((id, outcome), committed) in decided.iter().zip(outcomes).zip(&commits) {
            stale |= outcome == CommitOutcome::Stale;
            if outcome == CommitOutcome::Applied {
                open.remove(id);
                count_findings(context, &committed.records);
            }
        }
        if stale {
            let (key, version) = listing.guard;
            let stored = context
                .store
                .load_record(key)
                .await?
                .map_or(0, |stored| stored.version);
            if stored != *version {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The commit that takes one Page in. `None`: it was forgotten, and stays so until a login.
async fn page_commit(
    context: &Context,
    listing: &ResultPage<'_>,
    account: &ListedPage,
    stored: Versioned<StoredPage>,
) -> Result<Option<Commit>, StoreError> {
    let now = context.clock.now();
    let mut commit = Commit {
        guards: vec![listing.guard.clone()],
        ..Commit::default()
    };
    let mut page = match stored.value {
        StoredPage::Page(page) if page.status != Status::Erased => *page,
        StoredPage::Page(page) if page.erased_at >= Some(listing.consented_at) => return Ok(None),
        StoredPage::Unknown | StoredPage::Page(_) => Page::default(),
        StoredPage::Corrupt(corrupt) => {
            let (page, letter) = replace_corrupt_page(context, &account.id, corrupt, now);
            commit.records.push(letter);
            page
        }
    };
    page.connections.insert(listing.user.clone());
    let outcome = page.apply_read(&PageRead {
        requested_fields: listing.requested_fields,
        object: &account.object,
        stamp: listing.stamp,
        kind: ReadKind::PageList,
        now,
    });
    let meter = missed_webhooks::finding_writes(
        &context.daily_schedule,
        &account.id,
        &outcome.findings,
        now,
    );
    commit.records.extend(meter);
    page.polling
        .complete_read(listing.poll_began_at, listing.stamp, listing.page_slot);
    let key = token::page_key(listing.user, &account.id);
    let given = account.token.as_ref();
    match token::seal_write(key, given, listing.keys.current(), listing.poll_began_at) {
        Ok(kept) => commit.records.push(kept),
        Err(error) => return Err(StoreError::Unexpected(error.to_string())),
    }
    if given.is_some() {
        if outcome.needs_second_read {
            // Later than this one: or it would answer itself.
            page.polling
                .request_read(now.max(listing.poll_began_at.plus(Duration::from_millis(1))));
        }
        let is_off = account.object.get("is_webhooks_subscribed") == Some(&Json::Bool(false));
        request_subscription(context, listing, account, &mut commit, is_off).await?;
    } else {
        context.metrics.graph_replies.count("page_without_token");
        if page.connections.len() == 1 {
            page.status = Status::NoToken;
        }
    }
    commit.due.push(DueWrite {
        subject: Subject::Page(account.id.clone()),
        due: page.polling.due(),
    });
    commit.page = Some(PageWrite {
        id: account.id.clone(),
        expected: stored.version,
        page,
        changes: outcome.changes,
        received_at: now,
    });
    Ok(Some(commit))
}

/// Adds to a commit that the Page wants to be subscribed, if there is a reason to look.
async fn request_subscription(
    context: &Context,
    listing: &ResultPage<'_>,
    account: &ListedPage,
    commit: &mut Commit,
    is_off: bool,
) -> Result<(), StoreError> {
    let key = subscription::key(&account.id);
    let stored = load_record::<Subscription>(&*context.store, &key).await?;
    let (version, mut value) = stored.map_or((0, Subscription::default()), |stored| {
        (stored.version, stored.value)
    });
    let asked = value.polling.is_read_requested();
    let unsettled = is_off || asked || !value.refused.is_empty() || value.problem.is_some();
    let renewed = listing.logged_in_since && unsettled;
    if renewed {
        value.reset_after_login();
    }
    if !renewed && !value.needs_check(is_off, &webhook_fields(&context.tracked_fields)) {
        return Ok(());
    }
    value.polling.request_read(context.clock.now());
    commit.due.push(DueWrite {
        subject: Subject::Subscription(account.id.clone()),
        due: value.polling.due(),
    });
    commit
        .records
        .push(put_write(key, &value, Some(version), None));
    Ok(())
}
