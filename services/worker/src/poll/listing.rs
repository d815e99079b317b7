//! One result page of a walk: what `/me/accounts` says of some Pages becomes state, one commit per
//! Page with its token, its due time and, for a Page that is new or was unsubscribed, the wish to
//! subscribe it.

use std::collections::BTreeMap;
use std::time::Duration;

use common::custody::Keys;
use common::graph::calls::Account;
use common::records::subscription::{self, Subscription};
use common::records::{drift, get, put, token};
use common::store::{Commit, DueWrite, Key, Outcome, PageWrite, StoreError, Stored, Versioned};
use common::telemetry::Metrics;
use model::field::FieldName;
use model::id::{PageId, Subject, UserId};
use model::page::{Page, Status};
use model::read::{Read, Reader};
use model::time::Millis;
use serde_json::Value as Json;

use super::subscription::{count_drift, expect_announcement};
use crate::Parts;
use crate::fresh::start_again;

/// What every Page of a result page has in common.
pub(super) struct Listing<'a> {
    pub(super) user: &'a UserId,
    /// When the walk began, on our clock.
    pub(super) begun: Millis,
    /// When the result page was made at the earliest, on Facebook's clock.
    pub(super) stamp: Millis,
    pub(super) asked: &'a [FieldName],
    /// The person logged in since the last walk.
    pub(super) renewed: bool,
    /// When they agreed to that.
    pub(super) consented: Millis,
    /// When its Pages are read next if nothing happens.
    pub(super) slot: Millis,
    pub(super) keys: &'a Keys,
    pub(super) guard: &'a (Key, u64),
}

/// Commits a result page. `Ok(false)`: the connection was ended meanwhile, nothing more may be
/// written for it.
pub(super) async fn keep(
    parts: &Parts,
    listing: &Listing<'_>,
    accounts: Vec<Account>,
) -> Result<bool, StoreError> {
    // Facebook may list a Page twice: the later is as good as the earlier.
    let mut open: BTreeMap<PageId, Account> = accounts
        .into_iter()
        .map(|account| (account.id.clone(), account))
        .collect();
    while !open.is_empty() {
        let ids: Vec<PageId> = open.keys().cloned().collect();
        let (mut decided, mut commits) = (Vec::new(), Vec::with_capacity(ids.len()));
        let held = parts.store.load(&ids).await?;
        for (id, held) in ids.into_iter().zip(held) {
            match decide(parts, listing, &open[&id], held).await? {
                Some(commit) => {
                    decided.push(id);
                    commits.push(commit);
                }
                None => drop(open.remove(&id)),
            }
        }
        for (id, commit) in decided.iter().zip(&commits) {
            expect_announcement(parts, id, &commit.records).await?;
        }
        let outcomes = parts.store.commit(&commits).await?;
        let mut stale = false;
        for ((id, outcome), committed) in decided.iter().zip(outcomes).zip(&commits) {
            stale |= outcome == Outcome::Stale;
            if outcome == Outcome::Applied {
                open.remove(id);
                count_drift(parts, &committed.records);
            }
        }
        if stale {
            let (key, version) = listing.guard;
            let held = parts
                .store
                .record(key)
                .await?
                .map_or(0, |held| held.version);
            if held != *version {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The commit that takes one Page in. `None`: it was forgotten, and stays so until a login.
async fn decide(
    parts: &Parts,
    listing: &Listing<'_>,
    account: &Account,
    held: Versioned<Stored>,
) -> Result<Option<Commit>, StoreError> {
    let now = parts.clock.now();
    let mut commit = Commit {
        guards: vec![listing.guard.clone()],
        ..Commit::default()
    };
    let mut page = match held.value {
        Stored::Page(page) if page.status != Status::Forgotten => *page,
        Stored::Page(page) if page.forgotten >= Some(listing.consented) => return Ok(None),
        Stored::Unknown | Stored::Page(_) => Page::default(),
        Stored::Corrupt(corrupt) => {
            let (page, letter) = start_again(parts, &account.id, corrupt, now);
            commit.records.push(letter);
            page
        }
    };
    page.connections.insert(listing.user.clone());
    let outcome = page.read(&Read {
        asked: listing.asked,
        object: &account.object,
        stamp: listing.stamp,
        reader: Reader::Bulk,
        now,
    });
    let meter = drift::writes(&parts.days, &account.id, &outcome.findings, now);
    commit.records.extend(meter);
    page.polling
        .succeed(listing.begun, listing.stamp, listing.slot);
    let key = token::of_page(listing.user, &account.id);
    let given = account.token.as_ref();
    match token::keep(key, given, listing.keys.current(), listing.begun) {
        Ok(kept) => commit.records.push(kept),
        Err(error) => return Err(StoreError::Unexpected(error.to_string())),
    }
    if given.is_some() {
        if outcome.wants_another {
            // Later than this one: or it would answer itself.
            page.polling
                .ask(now.max(listing.begun.plus(Duration::from_millis(1))));
        }
        let is_off = account.object.get("is_webhooks_subscribed") == Some(&Json::Bool(false));
        subscribe(parts, listing, account, &mut commit, is_off).await?;
    } else {
        Metrics::count(&parts.metrics.graph, "page_without_token");
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
        expected: held.version,
        page,
        changes: outcome.changes,
        at: now,
    });
    Ok(Some(commit))
}

/// Adds to a commit that the Page wants to be subscribed, if there is a reason to look.
async fn subscribe(
    parts: &Parts,
    listing: &Listing<'_>,
    account: &Account,
    commit: &mut Commit,
    is_off: bool,
) -> Result<(), StoreError> {
    let key = subscription::key(&account.id);
    let held = get::<Subscription>(&*parts.store, &key).await?;
    let (version, mut value) = held.map_or((0, Subscription::default()), |held| {
        (held.version, held.value)
    });
    let asked = value.polling.wanted();
    let unsettled = is_off || asked || !value.refused.is_empty() || value.problem.is_some();
    let renewed = listing.renewed && unsettled;
    if renewed {
        value.renew();
    }
    if !renewed && !value.is_wanted(is_off, &parts.tracked.webhook_fields()) {
        return Ok(());
    }
    value.polling.ask(parts.clock.now());
    commit.due.push(DueWrite {
        subject: Subject::Subscription(account.id.clone()),
        due: value.polling.due(),
    });
    commit.records.push(put(key, &value, Some(version), None));
    Ok(())
}
