//! Erases a Page with everything that is known about it, or a person with every Page to which no
//! other connection gives access.
//!
//! Invariants: the epoch of a connection is written first, so that a poll that is under way cannot
//! write afterwards; a Page is erased in one commit with its tokens; repeating an erasure, after a
//! crash or by a second worker, is safe. The store retains the fact that a Page was erased and, for
//! a week, the epoch of an erased person.

mod receipt;

pub use receipt::{
    ErasureReceipt, ErasureResult, confirmation_code, find_receipt, is_valid_code, receipt_key,
    save_receipt, scrub_store,
};

use std::collections::BTreeSet;
use std::time::Duration;

use model::id::{PageId, Subject, UserId};
use model::page::{Page, Status};
use model::time::{FacebookTime, HostTime};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::connection::{self, delete_write};
use super::token_exchange::{Stage, TokenExchange};
use super::{
    alert, audit, commit_one, daily_poll, dead_letter, load_bodies, load_record, missed_webhooks,
    page_subscription, put_write, rate_limit, token, waiting_delivery, write_records,
};
use crate::pages::{COMMIT_BATCH, commit_each};
use crate::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, RecordKey, RecordKind, RecordWrite, Store,
    StoreError, StoredPage, Versioned,
};

/// How long the epoch of an erased person is stored. No job and no login lasts longer.
const EPOCH_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// The epoch of a person who was erased.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ErasedEpoch {
    /// When the erasure was requested, on this host's clock; `None` if the connection ended for
    /// another reason.
    #[serde(default)]
    pub erasure_requested_at: Option<HostTime>,
    /// When Facebook issued the request, on Facebook's clock; `None` if it is not known.
    #[serde(default)]
    pub issued_at: Option<FacebookTime>,
}

impl ErasedEpoch {
    /// Returns whether a login with a token that was issued at `token_issued_at`, on Facebook's
    /// clock, came before the request. If one of the two times is not known, the exchange of the
    /// code, on this host's clock, decides, without a tolerance if Facebook made the request.
    pub fn is_after_login(
        &self,
        token_issued_at: Option<FacebookTime>,
        code_exchanged_at: HostTime,
    ) -> bool {
        let Some(requested_at) = self.erasure_requested_at else {
            return false;
        };
        match (self.issued_at, token_issued_at) {
            // In the same second, the later of the two is not known, and the data is kept.
            (Some(issued_at), Some(token_issued_at)) => token_issued_at < issued_at,
            (Some(issued_at), None) => code_exchanged_at <= HostTime(issued_at.0),
            (None, _) => code_exchanged_at <= requested_at,
        }
    }
}

/// Returns the last erasure of a person. Its times are `None` if there was none in the last week.
pub async fn last_erasure(store: &dyn Store, user: &UserId) -> Result<ErasedEpoch, StoreError> {
    let stored = load_record::<ErasedEpoch>(store, &connection::connection_epoch_key(user)).await?;
    Ok(stored.map(|stored| stored.value).unwrap_or_default())
}

/// Erases a person as requested at `requested_at`, on this host's clock, and at `issued_at`, on
/// Facebook's clock if Facebook made the request: their connection, their tokens, and every Page to
/// which no other connection gives access. A later login is a new consent, so its connection and its
/// tokens are not erased.
pub async fn erase_user(
    store: &dyn Store,
    user: &UserId,
    requested_at: HostTime,
    issued_at: Option<FacebookTime>,
) -> Result<ErasureResult, StoreError> {
    let request = ErasedEpoch {
        erasure_requested_at: Some(requested_at),
        issued_at,
    };
    if !end_connection(store, user, &request).await? {
        return Ok(ErasureResult::default());
    }
    let tokens = load_bodies(store, RecordKind::PageToken, &token::page_prefix(user)).await?;
    // The connection has ended. If there is one now, the person has logged in again meanwhile, and
    // some of the tokens may belong to that login.
    let may_be_new = has_connection(store, user).await?;
    // A token that this build cannot decode is erased as well: it cannot be of a later login, whose
    // connection would have ended this erasure.
    let is_later = |body: Json| {
        may_be_new
            && serde_json::from_value::<ObtainedAt>(body)
                .is_ok_and(|at| at.obtained_at > requested_at)
    };
    let tokens: Vec<RecordKey> = tokens
        .into_iter()
        .filter(|(_, body)| !is_later(body.clone()))
        .map(|(key, _)| key)
        .collect();
    // The ids of the Pages are only known while the records of the tokens exist.
    let pages: Vec<PageId> = tokens
        .iter()
        .filter_map(|key| token::page_in_id(&key.id))
        .collect();
    let ids = |pages: &[PageId]| -> Vec<String> {
        let pages = pages.iter().map(ToString::to_string);
        pages.chain([user.to_string()]).collect()
    };
    // Some of the Pages may be kept for other people, and with them the deliveries that wait.
    let except_deliveries = dead_letter::Removed::ExceptDeliveries;
    let mentioning = ids(&pages);
    let mut result = ErasureResult {
        dead_letters: dead_letter::delete_mentioning(store, &mentioning, except_deliveries).await?,
        ..ErasureResult::default()
    };
    let other_tokens = tokens
        .iter()
        .filter(|key| token::page_in_id(&key.id).is_none());
    let deletes: Vec<RecordWrite> = other_tokens.cloned().map(delete_write).collect();
    if !deletes.is_empty() {
        write_records(store, deletes).await?;
    }
    let mut erased_pages = Vec::new();
    for batch in pages.chunks(COMMIT_BATCH) {
        let are_erased = remove_user_from_pages(store, batch, user, requested_at).await?;
        let erased = batch
            .iter()
            .zip(are_erased)
            .filter(|(_, is_erased)| *is_erased);
        erased_pages.extend(erased.map(|(id, _)| id.clone()));
    }
    result.pages_erased = erased_pages.len() as u64;
    result.pages_kept = (pages.len() - erased_pages.len()) as u64;
    // A dead letter may have been stored since the first pass, before its Page was erased.
    result.dead_letters += delete_mentioning(store, &ids(&erased_pages)).await?;
    store.forget_erased_changes().await?;
    audit::forget_person(store, user, store.now().await?).await?;
    let mut deletes = vec![delete_write(rate_limit::key(&rate_limit::user_bucket(
        user,
    )))];
    for (key, _) in load_bodies(store, RecordKind::DailyPoll, "").await? {
        if daily_poll::user_in_id(&key.id) == Some(user.as_str()) {
            deletes.push(delete_write(key));
        }
    }
    deletes.extend(exchange_deletes(store, user, requested_at).await?);
    write_records(store, deletes).await?;
    Ok(result)
}

/// Deletes the dead letters that contain one of these ids of Pages or people, the deliveries of these Pages
/// that wait to be forwarded, and the alerts about them. Returns the number of the dead letters.
pub async fn delete_mentioning(store: &dyn Store, ids: &[String]) -> Result<u64, StoreError> {
    alert::delete_of(store, ids).await?;
    waiting_delivery::delete_of_pages(store, ids).await?;
    dead_letter::delete_mentioning(store, ids, dead_letter::Removed::All).await
}

/// Returns whether a person has logged in since an erasure was requested, so that the erasure does
/// nothing.
pub async fn is_outdated(
    store: &dyn Store,
    user: &UserId,
    requested_at: HostTime,
    issued_at: Option<FacebookTime>,
) -> Result<bool, StoreError> {
    let request = ErasedEpoch {
        erasure_requested_at: Some(requested_at),
        issued_at,
    };
    let stored = load_record::<LoginTime>(store, &connection::key(user)).await?;
    Ok(stored.is_some_and(|stored| stored.value.is_after(&request)))
}

/// Returns whether a person has a connection.
async fn has_connection(store: &dyn Store, user: &UserId) -> Result<bool, StoreError> {
    Ok(store.load_record(&connection::key(user)).await?.is_some())
}

/// Returns the deletes of the token exchanges of a person, except those of a login that is later
/// than the request.
async fn exchange_deletes(
    store: &dyn Store,
    user: &UserId,
    requested_at: HostTime,
) -> Result<Vec<RecordWrite>, StoreError> {
    let mut deletes = Vec::new();
    let exchanges = load_bodies(store, RecordKind::TokenExchange, "").await?;
    let may_be_new = has_connection(store, user).await?;
    for (key, body) in exchanges {
        let is_to_erase = match serde_json::from_value::<TokenExchange>(body.clone()) {
            Ok(exchange) => {
                matches!(&exchange.stage, Stage::Connected(connected) if connected == user)
                    && (!may_be_new || exchange.code_exchanged_at <= requested_at)
            }
            // A form of a newer version that names the person.
            Err(_) => dead_letter::contains_number(&body.to_string(), user.as_str()),
        };
        if is_to_erase {
            deletes.push(delete_write(key));
        }
    }
    Ok(deletes)
}

/// The part of a stored token that an erasure needs. It can be decoded even if a newer version of
/// pagesync wrote the token.
#[derive(Deserialize)]
struct ObtainedAt {
    obtained_at: HostTime,
}

/// The part of a connection that an erasure needs. It can be decoded even if a newer version of
/// pagesync wrote the connection.
#[derive(Deserialize)]
struct LoginTime {
    consented_at: HostTime,
    #[serde(default)]
    token_issued_at: Option<FacebookTime>,
}

impl LoginTime {
    /// Returns whether the login is later than a request.
    fn is_after(&self, request: &ErasedEpoch) -> bool {
        !request.is_after_login(self.token_issued_at, self.consented_at)
    }
}

/// Ends the connection of a person. Returns `false`, and does nothing, if the person logged in after
/// the request.
async fn end_connection(
    store: &dyn Store,
    user: &UserId,
    request: &ErasedEpoch,
) -> Result<bool, StoreError> {
    loop {
        let stored = load_record::<LoginTime>(store, &connection::key(user)).await?;
        if stored
            .as_ref()
            .is_some_and(|stored| stored.value.is_after(request))
        {
            return Ok(false);
        }
        let epoch = put_write(
            connection::connection_epoch_key(user),
            request,
            None,
            Some(EPOCH_TTL),
        );
        let version = stored.map_or(0, |stored| stored.version);
        let outcome = commit_one(store, connection::end_commit(user, version, epoch)).await?;
        if outcome == CommitOutcome::Applied {
            return Ok(true);
        }
    }
}

/// Removes a person from the connections of these Pages, and erases each Page to which no other
/// connection gives access. Each decision and its commit are based on the same load. Returns for each
/// Page, in the same order, whether it was erased.
async fn remove_user_from_pages(
    store: &dyn Store,
    ids: &[PageId],
    user: &UserId,
    requested_at: HostTime,
) -> Result<Vec<bool>, StoreError> {
    let plan = async |id: PageId, stored: Versioned<StoredPage>| {
        let mut users = users_with_access(store, &id, &stored.value).await?;
        users.insert(user.clone());
        let is_only_user = users.len() == 1;
        let commit = if is_only_user {
            erasure_commit(store, &id, &stored, &users, requested_at).await?
        } else {
            connection::remove_access_commit(user, &id, stored)
        };
        Ok((Some(commit), is_only_user))
    };
    commit_each(store, ids, plan).await
}

/// Returns the people whose connections give access to a Page: those in the stored Page, or those
/// with a record of its token if the stored Page names none.
async fn users_with_access(
    store: &dyn Store,
    id: &PageId,
    stored: &StoredPage,
) -> Result<BTreeSet<UserId>, StoreError> {
    if let StoredPage::Page(page) = stored
        && !page.connections.is_empty()
    {
        return Ok(page.connections.clone());
    }
    let found = connection::users_with_token(store, id).await?;
    Ok(found.into_iter().collect())
}

/// What an erasure of a Page does, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageErasure {
    /// It erases the stored data.
    Erased,
    /// It does nothing, because the Page is erased already.
    AlreadyErased,
    /// It does nothing, because no such Page is stored.
    Unknown,
}

impl PageErasure {
    /// Returns what an erasure of a stored Page does.
    pub fn of(stored: &StoredPage) -> Self {
        match stored {
            StoredPage::Page(page) if page.status == Status::Erased => Self::AlreadyErased,
            StoredPage::Page(_) | StoredPage::Corrupt(_) => Self::Erased,
            StoredPage::Unknown => Self::Unknown,
        }
    }
}

/// Erases Pages, whether or not connections give access to them, with one batch of commits. They stay
/// erased until a person with access to them logs in again, or until an operator adds them. Returns
/// the result for each Page, in the same order. The caller must then call
/// [`delete_mentioning`] and [`Store::forget_erased_changes`], once for all of its batches.
pub async fn erase_pages(
    store: &dyn Store,
    ids: &[PageId],
    now: HostTime,
) -> Result<Vec<PageErasure>, StoreError> {
    let plan = async |id: PageId, stored: Versioned<StoredPage>| {
        let erasure = PageErasure::of(&stored.value);
        if erasure != PageErasure::Erased {
            return Ok((None, erasure));
        }
        let users = users_with_access(store, &id, &stored.value).await?;
        let commit = erasure_commit(store, &id, &stored, &users, now).await?;
        Ok((Some(commit), erasure))
    };
    commit_each(store, ids, plan).await
}

/// Returns the commit that erases a Page, with the tokens of these people for it and its other
/// records. The stored Page becomes an empty one with the status `erased`.
async fn erasure_commit(
    store: &dyn Store,
    id: &PageId,
    stored: &Versioned<StoredPage>,
    users: &BTreeSet<UserId>,
    requested_at: HostTime,
) -> Result<Commit, StoreError> {
    // The client is not stored with the erased Page, but the entry of the change feed names it, so that a
    // reader that sees only this client learns of the erasure.
    let client = match &stored.value {
        StoredPage::Page(page) => page.client.clone(),
        StoredPage::Unknown | StoredPage::Corrupt(_) => None,
    };
    let mut next = Commit {
        records: vec![
            delete_write(page_subscription::key(id)),
            delete_write(rate_limit::key(&rate_limit::page_bucket(id))),
        ],
        due: [
            Subject::Page(id.clone()),
            Subject::PageSubscription(id.clone()),
        ]
        .map(|subject| DueWrite { subject, due: None })
        .into(),
        page: Some(PageWrite {
            id: id.clone(),
            expected: stored.version,
            page: Page {
                status: Status::Erased,
                client,
                erasure_requested_at: Some(requested_at),
                ..Page::default()
            },
            changes: Vec::new(),
            received_at: requested_at,
        }),
        guards: Vec::new(),
    };
    let tokens = users
        .iter()
        .map(|user| delete_write(token::page_key(user, id)));
    next.records.extend(tokens);
    let prefix = missed_webhooks::page_prefix(id);
    for (key, _) in load_bodies(store, RecordKind::UnannouncedChange, &prefix).await? {
        next.records.push(delete_write(key));
    }
    Ok(next)
}
