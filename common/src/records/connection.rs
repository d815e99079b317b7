//! Connections: one person each, whose login covers Pages.
//!
//! Invariant: every commit that is made with a connection's tokens is guarded by the version of its
//! epoch, so that what was disconnected cannot be written by a poll that was already under way.

use std::fmt;

use model::id::{PageId, Subject, UserId};
use model::page;
use model::polling::Polling;
use model::time::{FacebookTime, HostTime};
use serde::{Deserialize, Serialize};

use super::{commit_one, load_all, load_record, put_write, token};
use crate::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, RecordKey, RecordKind, RecordWrite, Store,
    StoreError, StoredPage, Versioned, load_page,
};

/// What can be said of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It works.
    #[default]
    Active,
    /// Its token is dead: the person must log in again.
    NeedsLogin,
    /// A permission is missing.
    NeedsPermission,
    /// Its token is sealed with a key the worker does not have.
    NeedsKey,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::NeedsLogin => "needs_login",
            Self::NeedsPermission => "needs_permission",
            Self::NeedsKey => "needs_key",
        })
    }
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Who.
    pub user: UserId,
    /// Their name at Facebook.
    #[serde(default)]
    pub name: Option<String>,
    /// Its state.
    #[serde(default)]
    pub status: Status,
    /// When the person last logged in, on our clock.
    pub connected_at: HostTime,
    /// When the person came back from Facebook's dialog for that: their consent is not younger.
    #[serde(default)]
    pub consented_at: HostTime,
    /// What they allowed.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// When the token ends; `None`: never.
    #[serde(default)]
    pub token_expires_at: Option<HostTime>,
    /// When Facebook stops giving data until the next login; `None`: not said.
    #[serde(default)]
    pub data_access_expires_at: Option<HostTime>,
    /// When it is walked next.
    #[serde(default)]
    pub polling: Polling,
    /// A walk that is not finished.
    #[serde(default)]
    pub poll_progress: Option<PollProgress>,
    /// The last finished walk.
    #[serde(default)]
    pub last_poll: Option<PollOutcome>,
    /// Why the last attempt failed.
    #[serde(default)]
    pub problem: Option<String>,
    /// How many Pages a call asks for; less than 100 after Facebook wanted to be asked for less.
    #[serde(default = "default_result_page_size")]
    pub result_page_size: usize,
    /// The last of [`super::forecast::ALERTS`] that was given since the login.
    #[serde(default)]
    pub last_expiry_alert: Option<u64>,
    /// When the token was last looked at or renewed at Facebook, on our clock.
    #[serde(default)]
    pub token_inspected_at: Option<HostTime>,
}

/// A permission that was not given, and what does not work without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingPermission {
    /// Its name.
    pub permission: String,
    /// What does not work.
    pub consequence: &'static str,
}

impl Connection {
    /// When the walk under way will be done, going by its pace so far and by how many Pages the last one
    /// found. `None`: there is none, or nothing to go by.
    pub fn poll_finishes_at(&self, now: HostTime) -> Option<HostTime> {
        let (walk, last) = (self.poll_progress.as_ref()?, self.last_poll.as_ref()?);
        let left = last
            .pages
            .checked_sub(walk.pages)
            .filter(|_| walk.pages > 0)?;
        let taken = walk.began_at.until(now);
        let pace = taken.div_f64(f64::from(u32::try_from(walk.pages).ok()?));
        let rest = pace.saturating_mul(u32::try_from(left).ok()?);
        // Not before Facebook's limits are open again.
        let resumes = self.polling.not_before.unwrap_or_default().max(now);
        Some(resumes.plus(rest))
    }

    /// The permissions of `wanted` that the person did not give.
    pub fn missing_permissions(&self, wanted: &[String]) -> Vec<MissingPermission> {
        let absent = wanted.iter().filter(|scope| !self.scopes.contains(scope));
        absent
            .map(|permission| MissingPermission {
                permission: permission.clone(),
                consequence: match permission.as_str() {
                    "pages_show_list" => "no Page can be found",
                    "pages_read_engagement" => "the fields of Pages cannot be read",
                    "pages_manage_metadata" => {
                        "no webhook arrives: changes are seen at the daily poll only"
                    }
                    "business_management" => "Pages that belong to a business are not listed",
                    _ => "what needs it does not work",
                },
            })
            .collect()
    }
}

/// Pages asked for at once, unless Facebook wants less.
pub const MAX_RESULT_PAGE_SIZE: usize = 100;

fn default_result_page_size() -> usize {
    MAX_RESULT_PAGE_SIZE
}

/// A walk through the Pages of a connection that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollProgress {
    /// When it began, on our clock. Tokens it found bear it.
    pub began_at: HostTime,
    /// Where the next result page begins; `None`: at the start.
    pub cursor: Option<String>,
    /// Stamp of its first answer: nothing it says is older.
    pub stamp: Option<FacebookTime>,
    /// Pages so far.
    pub pages: u64,
    /// Calls so far.
    pub calls: u64,
}

/// A finished walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollOutcome {
    /// When it began, on our clock.
    pub began_at: HostTime,
    /// When it ended.
    pub ended_at: HostTime,
    /// Pages it listed.
    pub pages: u64,
    /// Calls it took.
    pub calls: u64,
}

/// The record of a connection.
pub fn key(user: &UserId) -> RecordKey {
    RecordKey::new(RecordKind::Connection, user.as_str())
}

/// The record that counts its lives.
pub fn epoch_key(user: &UserId) -> RecordKey {
    RecordKey::new(RecordKind::Epoch, user.as_str())
}

/// One connection.
pub async fn find(
    store: &dyn Store,
    user: &UserId,
) -> Result<Option<Versioned<Connection>>, StoreError> {
    load_record(store, &key(user)).await
}

/// Every connection.
pub async fn list(store: &dyn Store) -> Result<Vec<Connection>, StoreError> {
    let found = load_all::<Connection>(store, RecordKind::Connection, "").await?;
    Ok(found.into_iter().map(|(_, stored)| stored.value).collect())
}

/// Returns the people whose connection has a token record for `page`.
pub async fn users_with_token(store: &dyn Store, page: &PageId) -> Result<Vec<UserId>, StoreError> {
    let mut users = Vec::new();
    for connection in list(store).await? {
        let key = token::page_key(&connection.user, page);
        if store.load_record(&key).await?.is_some() {
            users.push(connection.user);
        }
    }
    Ok(users)
}

/// The guard for commits made with its tokens.
pub async fn epoch_guard(store: &dyn Store, user: &UserId) -> Result<(RecordKey, u64), StoreError> {
    let key = epoch_key(user);
    let stored = store.load_record(&key).await?;
    Ok((key, stored.map_or(0, |stored| stored.version)))
}

/// Asks for a walk now; answers with when it is due. `None`: there is no such connection.
pub async fn request_poll(
    store: &dyn Store,
    user: &UserId,
    now: HostTime,
) -> Result<Option<HostTime>, StoreError> {
    loop {
        let Some(Versioned { version, mut value }) = find(store, user).await? else {
            return Ok(None);
        };
        value.polling.request_read(now);
        // Somebody asks by hand: what was tried before is no reason to wait.
        (value.polling.not_before, value.polling.last_attempt_began) = (None, None);
        if commit_one(store, save_commit(&value, version)).await? == CommitOutcome::Applied {
            return Ok(value.polling.due().map(|(_, at)| at));
        }
    }
}

/// The write of a connection and of its due time.
pub fn save_commit(connection: &Connection, expected: u64) -> Commit {
    Commit {
        records: vec![put_write(
            key(&connection.user),
            connection,
            Some(expected),
            None,
        )],
        due: vec![due_write(connection)],
        ..Commit::default()
    }
}

/// Its due time.
pub fn due_write(connection: &Connection) -> DueWrite {
    DueWrite {
        subject: Subject::Connection(connection.user.clone()),
        due: connection.polling.due(),
    }
}

/// The commit that ends a connection: whoever opened its token before has a guard that does not hold any
/// more, and nobody opens it afterwards. Only then is there an end to what could be written for it.
pub(super) fn end_commit(user: &UserId, version: u64, epoch: RecordWrite) -> Commit {
    let connection = RecordWrite::Delete {
        key: key(user),
        expected: Some(version),
    };
    Commit {
        records: vec![epoch, delete_write(token::user_key(user)), connection],
        due: vec![DueWrite {
            subject: Subject::Connection(user.clone()),
            due: None,
        }],
        ..Commit::default()
    }
}

/// Ends a connection here: its tokens and itself are gone, and nothing that was under way can write
/// with them. The Pages stay with what is known of them. `Ok(None)`: there is none.
pub async fn disconnect(store: &dyn Store, user: &UserId) -> Result<Option<usize>, StoreError> {
    let mut known = false;
    while let Some(stored) = find(store, user).await? {
        known = true;
        let epoch = put_write(epoch_key(user), &serde_json::json!({}), None, None);
        if commit_one(store, end_commit(user, stored.version, epoch)).await?
            == CommitOutcome::Applied
        {
            break;
        }
    }
    // Without a connection, too: an earlier attempt may have got no further.
    let mut gone = 0;
    for (id, stored) in
        load_all::<token::StoredToken>(store, RecordKind::PageToken, &token::page_prefix(user))
            .await?
    {
        if stored.value.sealed.is_some() {
            gone += 1;
            remove_access(store, user, RecordKey::new(RecordKind::PageToken, id)).await?;
        }
    }
    Ok((known || gone > 0).then_some(gone))
}

/// Takes a person off a Page together with their token for it. A Page that nobody covers any more is
/// not read.
async fn remove_access(
    store: &dyn Store,
    user: &UserId,
    token: RecordKey,
) -> Result<(), StoreError> {
    loop {
        let stored = match token::page_in_id(&token.id) {
            Some(id) => {
                let stored = load_page(store, &id).await?;
                Some((id, stored))
            }
            None => None,
        };
        let next = match stored {
            Some((id, stored)) => remove_access_commit(user, &token, id, stored),
            None => Commit {
                records: vec![delete_write(token.clone())],
                ..Commit::default()
            },
        };
        if commit_one(store, next).await? == CommitOutcome::Applied {
            return Ok(());
        }
    }
}

/// The commit that takes a person off a Page as it was loaded. Of a Page that nobody covers any more the
/// person's record stays, without a token: should they ask to be forgotten, it leads to the Page.
pub(super) fn remove_access_commit(
    user: &UserId,
    token: &RecordKey,
    id: PageId,
    stored: Versioned<StoredPage>,
) -> Commit {
    let mut next = Commit {
        records: vec![delete_write(token.clone())],
        ..Commit::default()
    };
    let Versioned {
        version,
        value: StoredPage::Page(mut page),
    } = stored
    else {
        return next;
    };
    if !page.connections.remove(user) {
        return next;
    }
    if page.connections.is_empty() {
        let trace = token::StoredToken {
            sealed: None,
            obtained_at: HostTime(0),
        };
        next.records = vec![put_write(token.clone(), &trace, None, None)];
        page.status = page::Status::NoToken;
        page.polling.daily_slot = None;
        next.due.push(DueWrite {
            subject: Subject::Page(id.clone()),
            due: page.polling.due(),
        });
    }
    next.page = Some(PageWrite {
        id,
        expected: version,
        received_at: page.polling.last_success_began.unwrap_or_default(),
        page: *page,
        changes: Vec::new(),
    });
    next
}

pub(super) fn delete_write(key: RecordKey) -> RecordWrite {
    RecordWrite::Delete {
        key,
        expected: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_done_by_its_pace_so_far_and_not_while_calls_are_limited() {
        let walk = |pages| PollProgress {
            began_at: HostTime(100_000),
            cursor: None,
            stamp: None,
            pages,
            calls: 1,
        };
        let last = PollOutcome {
            began_at: HostTime(0),
            ended_at: HostTime(1),
            pages: 500,
            calls: 5,
        };
        let new = serde_json::json!({"user": "7", "connected_at": 0, "polling": {}});
        let mut connection: Connection = serde_json::from_value(new).unwrap();
        (connection.poll_progress, connection.last_poll) = (Some(walk(100)), Some(last));
        // 100 of 500 in 20 s: 400 more take 80 s.
        assert_eq!(
            connection.poll_finishes_at(HostTime(120_000)),
            Some(HostTime(200_000))
        );
        connection.polling.defer_until(HostTime(900_000));
        assert_eq!(
            connection.poll_finishes_at(HostTime(120_000)),
            Some(HostTime(980_000))
        );
        connection.poll_progress = Some(walk(501));
        assert_eq!(
            connection.poll_finishes_at(HostTime(120_000)),
            None,
            "more than last time"
        );
        connection.poll_progress = Some(walk(0));
        assert_eq!(
            connection.poll_finishes_at(HostTime(120_000)),
            None,
            "no pace yet"
        );
    }
}
