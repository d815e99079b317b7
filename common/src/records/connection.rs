//! Connections: one person each, whose login covers Pages.
//!
//! Invariant: every commit that is made with a connection's tokens is guarded by the version of its
//! epoch, so that what was disconnected cannot be written by a poll that was already under way.

use std::fmt;

use model::due::Polling;
use model::id::{PageId, Subject, UserId};
use model::page;
use model::time::Millis;
use serde::{Deserialize, Serialize};

use super::{all, commit, get, put, token};
use crate::store::{
    Commit, DueWrite, Key, Kind, Outcome, PageWrite, RecordWrite, Store, StoreError, Stored,
    Versioned,
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
    pub connected: Millis,
    /// When the person came back from Facebook's dialog for that: their consent is not younger.
    #[serde(default)]
    pub consented: Millis,
    /// What they allowed.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// When the token ends; `None`: never.
    #[serde(default)]
    pub expires: Option<Millis>,
    /// When Facebook stops giving data until the next login; `None`: not said.
    #[serde(default)]
    pub data_access_expires: Option<Millis>,
    /// When it is walked next.
    #[serde(default)]
    pub polling: Polling,
    /// A walk that is not finished.
    #[serde(default)]
    pub walk: Option<Walk>,
    /// The last finished walk.
    #[serde(default)]
    pub last: Option<Walked>,
    /// Why the last attempt failed.
    #[serde(default)]
    pub problem: Option<String>,
    /// How many Pages a call asks for; less than 100 after Facebook wanted to be asked for less.
    #[serde(default = "result_page")]
    pub result_page: usize,
    /// The last of [`super::forecast::ALERTS`] that was given since the login.
    #[serde(default)]
    pub alerted: Option<u64>,
    /// When the token was last looked at or renewed at Facebook, on our clock.
    #[serde(default)]
    pub inspected: Option<Millis>,
}

/// A permission that was not given, and what does not work without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Its name.
    pub permission: String,
    /// What does not work.
    pub consequence: &'static str,
}

impl Connection {
    /// When the walk under way will be done, going by its pace so far and by how many Pages the last one
    /// found. `None`: there is none, or nothing to go by.
    pub fn eta(&self, now: Millis) -> Option<Millis> {
        let (walk, last) = (self.walk.as_ref()?, self.last.as_ref()?);
        let left = last
            .pages
            .checked_sub(walk.pages)
            .filter(|_| walk.pages > 0)?;
        let taken = walk.begun.until(now);
        let pace = taken.div_f64(f64::from(u32::try_from(walk.pages).ok()?));
        let rest = pace.saturating_mul(u32::try_from(left).ok()?);
        // Not before Facebook's limits are open again.
        let resumes = self.polling.not_before.unwrap_or_default().max(now);
        Some(resumes.plus(rest))
    }

    /// The permissions of `wanted` that the person did not give.
    pub fn missing(&self, wanted: &[String]) -> Vec<Missing> {
        let absent = wanted.iter().filter(|scope| !self.scopes.contains(scope));
        absent
            .map(|permission| Missing {
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
pub const RESULT_PAGE: usize = 100;

fn result_page() -> usize {
    RESULT_PAGE
}

/// A walk through the Pages of a connection that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// When it began, on our clock. Tokens it found bear it.
    pub begun: Millis,
    /// Where the next result page begins; `None`: at the start.
    pub after: Option<String>,
    /// Stamp of its first answer: nothing it says is older.
    pub stamp: Option<Millis>,
    /// Pages so far.
    pub pages: u64,
    /// Calls so far.
    pub calls: u64,
}

/// A finished walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walked {
    /// When it began, on our clock.
    pub begun: Millis,
    /// When it ended.
    pub ended: Millis,
    /// Pages it listed.
    pub pages: u64,
    /// Calls it took.
    pub calls: u64,
}

/// The record of a connection.
pub fn key(user: &UserId) -> Key {
    Key::new(Kind::Connection, user.as_str())
}

/// The record that counts its lives.
pub fn epoch_key(user: &UserId) -> Key {
    Key::new(Kind::Epoch, user.as_str())
}

/// One connection.
pub async fn find(
    store: &dyn Store,
    user: &UserId,
) -> Result<Option<Versioned<Connection>>, StoreError> {
    get(store, &key(user)).await
}

/// Every connection.
pub async fn list(store: &dyn Store) -> Result<Vec<Connection>, StoreError> {
    let found = all::<Connection>(store, Kind::Connection, "").await?;
    Ok(found.into_iter().map(|(_, held)| held.value).collect())
}

/// The guard for commits made with its tokens.
pub async fn guard(store: &dyn Store, user: &UserId) -> Result<(Key, u64), StoreError> {
    let key = epoch_key(user);
    let held = store.record(&key).await?;
    Ok((key, held.map_or(0, |held| held.version)))
}

/// Asks for a walk now; answers with when it is due. `None`: there is no such connection.
pub async fn ask(
    store: &dyn Store,
    user: &UserId,
    now: Millis,
) -> Result<Option<Millis>, StoreError> {
    loop {
        let Some(Versioned { version, mut value }) = find(store, user).await? else {
            return Ok(None);
        };
        value.polling.ask(now);
        // Somebody asks by hand: what was tried before is no reason to wait.
        (value.polling.not_before, value.polling.started) = (None, None);
        if commit(store, save(&value, version)).await? == Outcome::Applied {
            return Ok(value.polling.due().map(|(_, at)| at));
        }
    }
}

/// The write of a connection and of its due time.
pub fn save(connection: &Connection, expected: u64) -> Commit {
    Commit {
        records: vec![put(key(&connection.user), connection, Some(expected), None)],
        due: vec![due(connection)],
        ..Commit::default()
    }
}

/// Its due time.
pub fn due(connection: &Connection) -> DueWrite {
    DueWrite {
        subject: Subject::Connection(connection.user.clone()),
        due: connection.polling.due(),
    }
}

/// The commit that ends a connection: whoever opened its token before has a guard that does not hold any
/// more, and nobody opens it afterwards. Only then is there an end to what could be written for it.
pub(super) fn end(user: &UserId, version: u64, epoch: RecordWrite) -> Commit {
    let connection = RecordWrite::Delete {
        key: key(user),
        expected: Some(version),
    };
    Commit {
        records: vec![epoch, delete(token::of_user(user)), connection],
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
    while let Some(held) = find(store, user).await? {
        known = true;
        let epoch = put(epoch_key(user), &serde_json::json!({}), None, None);
        if commit(store, end(user, held.version, epoch)).await? == Outcome::Applied {
            break;
        }
    }
    // Without a connection, too: an earlier attempt may have got no further.
    let mut gone = 0;
    for (id, held) in all::<token::Held>(store, Kind::PageToken, &token::prefix(user)).await? {
        if held.value.sealed.is_some() {
            gone += 1;
            uncover(store, user, Key::new(Kind::PageToken, id)).await?;
        }
    }
    Ok((known || gone > 0).then_some(gone))
}

/// Takes a person off a Page together with their token for it. A Page that nobody covers any more is
/// not read.
async fn uncover(store: &dyn Store, user: &UserId, token: Key) -> Result<(), StoreError> {
    loop {
        let held = match token::page_of(&token.id) {
            Some(id) => {
                let held = store.load(std::slice::from_ref(&id)).await?.pop();
                held.map(|held| (id, held))
            }
            None => None,
        };
        let next = match held {
            Some((id, held)) => uncovering(user, &token, id, held),
            None => Commit {
                records: vec![delete(token.clone())],
                ..Commit::default()
            },
        };
        if commit(store, next).await? == Outcome::Applied {
            return Ok(());
        }
    }
}

/// The commit that takes a person off a Page as it was loaded. Of a Page that nobody covers any more the
/// person's record stays, without a token: should they ask to be forgotten, it leads to the Page.
pub(super) fn uncovering(
    user: &UserId,
    token: &Key,
    id: PageId,
    held: Versioned<Stored>,
) -> Commit {
    let mut next = Commit {
        records: vec![delete(token.clone())],
        ..Commit::default()
    };
    let Versioned {
        version,
        value: Stored::Page(mut page),
    } = held
    else {
        return next;
    };
    if !page.connections.remove(user) {
        return next;
    }
    if page.connections.is_empty() {
        let trace = token::Held {
            sealed: None,
            obtained: Millis(0),
        };
        next.records = vec![put(token.clone(), &trace, None, None)];
        page.status = page::Status::NoToken;
        page.polling.slot = None;
        next.due.push(DueWrite {
            subject: Subject::Page(id.clone()),
            due: page.polling.due(),
        });
    }
    next.page = Some(PageWrite {
        id,
        expected: version,
        at: page.polling.answered.unwrap_or_default(),
        page: *page,
        changes: Vec::new(),
    });
    next
}

pub(super) fn delete(key: Key) -> RecordWrite {
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
        let walk = |pages| Walk {
            begun: Millis(100_000),
            after: None,
            stamp: None,
            pages,
            calls: 1,
        };
        let last = Walked {
            begun: Millis(0),
            ended: Millis(1),
            pages: 500,
            calls: 5,
        };
        let new = serde_json::json!({"user": "7", "connected": 0, "polling": {}});
        let mut connection: Connection = serde_json::from_value(new).unwrap();
        (connection.walk, connection.last) = (Some(walk(100)), Some(last));
        // 100 of 500 in 20 s: 400 more take 80 s.
        assert_eq!(connection.eta(Millis(120_000)), Some(Millis(200_000)));
        connection.polling.defer(Millis(900_000));
        assert_eq!(connection.eta(Millis(120_000)), Some(Millis(980_000)));
        connection.walk = Some(walk(501));
        assert_eq!(connection.eta(Millis(120_000)), None, "more than last time");
        connection.walk = Some(walk(0));
        assert_eq!(connection.eta(Millis(120_000)), None, "no pace yet");
    }
}
