//! Connections: people who logged in and thereby give access to Pages.
//!
//! Invariant: every commit made with a token of a connection is guarded by the version of the
//! connection's epoch, so a poll that is still under way cannot write after the connection has
//! ended.

use std::fmt;

use model::failure::Failure;
use model::id::{PageId, Subject, UserId};
use model::polling::Polling;
use model::time::{FacebookTime, HostTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use super::poll_progress::{PageSource, PollOutcome, PollProgress, PortfolioId};
use super::{
    commit_one, load_all, load_bodies, load_record, put_write, token, token_inspection,
    write_records,
};
use crate::pages::{COMMIT_BATCH, commit_each};
use crate::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, RecordGuard, RecordKey, RecordKind, RecordWrite,
    Store, StoreError, StoredPage, Versioned,
};

/// The status of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ConnectionStatus)]
pub enum Status {
    /// The connection can be polled.
    #[default]
    Active,
    /// The token is invalid, and the person must log in again.
    NeedsLogin,
    /// A permission is missing.
    NeedsPermission,
    /// The token is sealed to a key that the worker does not have.
    NeedsKey,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [
        Self::Active,
        Self::NeedsLogin,
        Self::NeedsPermission,
        Self::NeedsKey,
    ];

    /// Returns the name of the status, as it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::NeedsLogin => "needs_login",
            Self::NeedsPermission => "needs_permission",
            Self::NeedsKey => "needs_key",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The app-scoped id of the person.
    pub user: UserId,
    /// The name of the person at Facebook; `None` if it is not known.
    #[serde(default)]
    pub name: Option<String>,
    /// The client for whom the person connected Pages; `None` if their invitations named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The status of the connection.
    #[serde(default)]
    pub status: Status,
    /// When the last login of the person was completed, on this host's clock.
    pub connected_at: HostTime,
    /// When the code of that login was exchanged, on this host's clock. The person consented before
    /// this time.
    #[serde(default)]
    pub consented_at: HostTime,
    /// When Facebook issued the token of that login, on Facebook's clock; `None` if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_issued_at: Option<FacebookTime>,
    /// The permissions that the person granted.
    #[serde(default)]
    pub permissions: Vec<String>,
    /// When the token expires; `None` if it does not expire.
    #[serde(default)]
    pub token_expires_at: Option<HostTime>,
    /// When Facebook stops returning data until the next login; `None` if Facebook names no end.
    #[serde(default)]
    pub data_access_expires_at: Option<HostTime>,
    /// The poll state, which determines when the connection is polled next.
    #[serde(default)]
    pub polling: Polling,
    /// The connection poll that is under way.
    #[serde(default)]
    pub poll_progress: Option<PollProgress>,
    /// The last complete connection poll.
    #[serde(default)]
    pub last_poll: Option<PollOutcome>,
    /// The reason why the last attempt failed; `None` if it did not fail.
    #[serde(default)]
    pub problem: Option<String>,
    /// The last failed attempt; `None` if the last attempt did not fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// How many Pages a call requests: [`MAX_RESULT_PAGE_SIZE`], or fewer after Facebook refused a
    /// call because the reply would have been too large.
    #[serde(default = "default_result_page_size")]
    pub result_page_size: usize,
    /// The last of [`super::expiry::ALERT_DAYS`] that was logged since the login.
    #[serde(default)]
    pub last_expiry_alert: Option<u64>,
    /// When the token was last inspected or renewed at Facebook, on this host's clock.
    #[serde(default)]
    pub token_inspected_at: Option<HostTime>,
}

/// A permission that the person did not grant, and the consequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MissingPermission {
    /// The name of the permission.
    pub permission: String,
    /// The function that does not work without it.
    pub consequence: &'static str,
}

impl Connection {
    /// Estimates when the poll under way will be complete, from its speed up to `now` and from the
    /// number of Pages in the last poll. Returns `None` if no poll is under way or an estimate is
    /// not possible.
    pub fn poll_finishes_at(&self, now: HostTime) -> Option<HostTime> {
        let (progress, last) = (self.poll_progress.as_ref()?, self.last_poll.as_ref()?);
        let pages_left = last
            .pages
            .checked_sub(progress.pages)
            .filter(|_| progress.pages > 0)?;
        let elapsed = progress.began_at.until(now);
        let time_per_page = elapsed.div_f64(f64::from(u32::try_from(progress.pages).ok()?));
        let time_left = time_per_page.saturating_mul(u32::try_from(pages_left).ok()?);
        // While a rate limit blocks calls, the poll does not continue.
        let resumes = self.polling.not_before.unwrap_or_default().max(now);
        Some(resumes.plus(time_left))
    }

    /// Returns the permissions of `requested` that the person did not grant.
    pub fn missing_permissions(&self, requested: &[String]) -> Vec<MissingPermission> {
        let missing = requested
            .iter()
            .filter(|permission| !self.permissions.contains(permission));
        missing
            .map(|permission| MissingPermission {
                permission: permission.clone(),
                consequence: match permission.as_str() {
                    "pages_show_list" => "no Page can be found",
                    "pages_read_engagement" => "the fields of Pages cannot be read",
                    "pages_manage_metadata" => {
                        "no webhook arrives: only the daily poll finds changes"
                    }
                    "business_management" => "Pages that belong to a business are not listed",
                    _ => "functions that need it do not work",
                },
            })
            .collect()
    }
}

/// The largest number of Pages that a call requests.
pub const MAX_RESULT_PAGE_SIZE: usize = 100;

fn default_result_page_size() -> usize {
    MAX_RESULT_PAGE_SIZE
}

/// Returns the key of a connection's record.
pub fn key(user: &UserId) -> RecordKey {
    RecordKey::new(RecordKind::Connection, user.as_str())
}

/// Returns the key of a connection's epoch, a record that is written each time the connection ends.
pub fn connection_epoch_key(user: &UserId) -> RecordKey {
    RecordKey::new(RecordKind::ConnectionEpoch, user.as_str())
}

/// Returns a connection, or `None` if there is none.
pub async fn find(
    store: &dyn Store,
    user: &UserId,
) -> Result<Option<Versioned<Connection>>, StoreError> {
    load_record(store, &key(user)).await
}

/// Returns every connection, in the order of the ids.
pub async fn list(store: &dyn Store) -> Result<Vec<Connection>, StoreError> {
    let found = load_all::<Connection>(store, RecordKind::Connection, "").await?;
    Ok(found.into_iter().map(|(_, stored)| stored.value).collect())
}

/// Returns the people whose connection has a token record for `page`.
pub async fn users_with_token(store: &dyn Store, page: &PageId) -> Result<Vec<UserId>, StoreError> {
    let mut users = Vec::new();
    // Connections that this build cannot decode count as well: they give access, too.
    for (key, _) in load_bodies(store, RecordKind::Connection, "").await? {
        let Ok(user) = UserId::parse(&key.id) else {
            continue;
        };
        let key = token::page_key(&user, page);
        if store.load_record(&key).await?.is_some() {
            users.push(user);
        }
    }
    Ok(users)
}

/// Returns the ids of the Pages for which a person's token is stored, or was stored before.
pub async fn page_ids(store: &dyn Store, user: &UserId) -> Result<Vec<PageId>, StoreError> {
    let tokens = load_bodies(store, RecordKind::PageToken, &token::page_prefix(user)).await?;
    let ids = tokens
        .iter()
        .filter_map(|(key, _)| token::page_in_id(&key.id));
    Ok(ids.collect())
}

/// Returns the guard for commits made with the tokens of a connection. It must be read before the
/// token is used.
pub async fn epoch_guard(store: &dyn Store, user: &UserId) -> Result<RecordGuard, StoreError> {
    let key = connection_epoch_key(user);
    let stored = store.load_record(&key).await?;
    let version = stored.map_or(0, |stored| stored.version);
    Ok(RecordGuard { key, version })
}

/// Requests a connection poll now. Returns when it is due, or `None` if there is no such
/// connection.
pub async fn request_poll(
    store: &dyn Store,
    user: &UserId,
    now: HostTime,
) -> Result<Option<HostTime>, StoreError> {
    loop {
        let Some(stored) = find(store, user).await? else {
            return Ok(None);
        };
        if let Some(at) = request_poll_of(store, user, stored.version, now).await? {
            return Ok(Some(at));
        }
    }
}

/// Requests a connection poll now, as [`request_poll`] does, if the connection still has this version.
/// Returns `None` if it has another one or does not exist.
pub async fn request_poll_of(
    store: &dyn Store,
    user: &UserId,
    version: u64,
    now: HostTime,
) -> Result<Option<HostTime>, StoreError> {
    let stored = find(store, user).await?;
    let Some(Versioned { mut value, .. }) = stored.filter(|stored| stored.version == version)
    else {
        return Ok(None);
    };
    value.polling.request_read_now(now);
    // An operator requested the poll, so the minimum time between attempts does not postpone it.
    value.polling.last_attempt_began = None;
    let outcome = commit_one(store, update_commit(&value, version)).await?;
    let due_at = value.polling.due().map_or(now, |(_, at)| at);
    Ok((outcome == CommitOutcome::Applied).then_some(due_at))
}

/// Returns the commit that writes a connection and its due time, if the connection still has the
/// version `expected`.
pub fn update_commit(connection: &Connection, expected: u64) -> Commit {
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

/// Returns the write of a connection's due time.
pub fn due_write(connection: &Connection) -> DueWrite {
    DueWrite {
        subject: Subject::Connection(connection.user.clone()),
        due: connection.polling.due(),
    }
}

/// Returns the commit that ends a connection. It writes the epoch, so that commits made with the
/// token are refused from now on, and deletes the token, so that no process can open it again.
pub(super) fn end_commit(user: &UserId, version: u64, epoch: RecordWrite) -> Commit {
    let connection = RecordWrite::Delete {
        key: key(user),
        expected: Some(version),
    };
    Commit {
        records: vec![
            epoch,
            delete_write(token::user_key(user)),
            delete_write(token_inspection::key(user)),
            connection,
        ],
        due: [
            Subject::Connection(user.clone()),
            Subject::Token(user.clone()),
        ]
        .map(|subject| DueWrite { subject, due: None })
        .into(),
        ..Commit::default()
    }
}

/// Ends a connection and deletes its tokens. A poll that is under way cannot write for it any more.
/// The Pages and their values remain stored. Returns the number of deleted Page tokens, or `None`
/// if there is no such connection. Facebook is not called.
pub async fn disconnect(store: &dyn Store, user: &UserId) -> Result<Option<usize>, StoreError> {
    let mut existed = false;
    while let Some(stored) = store.load_record(&key(user)).await? {
        existed = true;
        let epoch = put_write(
            connection_epoch_key(user),
            &serde_json::json!({}),
            None,
            None,
        );
        if commit_one(store, end_commit(user, stored.version, epoch)).await?
            == CommitOutcome::Applied
        {
            break;
        }
    }
    // An earlier attempt may have deleted the connection and failed before it deleted the tokens.
    let (mut pages, mut other_tokens) = (Vec::new(), Vec::new());
    for (key, body) in load_bodies(store, RecordKind::PageToken, &token::page_prefix(user)).await? {
        // A record without its token was left by an earlier disconnect. One that this build cannot
        // decode may contain a token.
        let is_without_token = serde_json::from_value::<token::StoredToken>(body)
            .is_ok_and(|stored| stored.sealed.is_none());
        match token::page_in_id(&key.id) {
            _ if is_without_token => {}
            Some(id) => pages.push(id),
            None => other_tokens.push(delete_write(key)),
        }
    }
    let deleted = pages.len() + other_tokens.len();
    if !other_tokens.is_empty() {
        write_records(store, other_tokens).await?;
    }
    let plan = async |id: PageId, stored: Versioned<StoredPage>| {
        Ok((Some(remove_access_commit(user, &id, stored)), ()))
    };
    for batch in pages.chunks(COMMIT_BATCH) {
        commit_each(store, batch, plan).await?;
    }
    Ok((existed || deleted > 0).then_some(deleted))
}

/// Returns the commit that removes a person from the connections of the loaded Page `stored`. If no
/// other connection gives access to the Page, the record of the token is not deleted but stored
/// without its token, because a later erasure of the person finds the Page by this record.
pub(super) fn remove_access_commit(
    user: &UserId,
    id: &PageId,
    stored: Versioned<StoredPage>,
) -> Commit {
    let token = token::page_key(user, id);
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
        next.records = vec![put_write(
            token,
            &token::StoredToken::OF_FORMER_ACCESS,
            None,
            None,
        )];
        page.stop_reads();
        next.due.push(DueWrite {
            subject: Subject::Page(id.clone()),
            due: page.polling.due(),
        });
    }
    next.page = Some(PageWrite {
        id: id.clone(),
        expected: version,
        received_at: page.polling.last_success_began.unwrap_or_default(),
        page: *page,
        changes: Vec::new(),
    });
    next
}

/// Returns the write that deletes any version of a record.
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
    fn the_end_of_a_poll_is_estimated_from_its_speed_and_the_rate_limit() {
        let progress = |pages| PollProgress {
            pages,
            calls: 1,
            ..PollProgress::new(HostTime(100_000))
        };
        let last = PollOutcome {
            began_at: HostTime(0),
            ended_at: HostTime(1),
            pages: 500,
            calls: 5,
            problems: Vec::new(),
        };
        let new = serde_json::json!({"user": "7", "connected_at": 0, "polling": {}});
        let mut connection: Connection = serde_json::from_value(new).unwrap();
        (connection.poll_progress, connection.last_poll) = (Some(progress(100)), Some(last));
        // 100 of 500 Pages took 20 s, so the other 400 take 80 s.
        assert_eq!(
            connection.poll_finishes_at(HostTime(120_000)),
            Some(HostTime(200_000))
        );
        connection.polling.defer_until(HostTime(900_000));
        assert_eq!(
            connection.poll_finishes_at(HostTime(120_000)),
            Some(HostTime(980_000))
        );
        connection.poll_progress = Some(progress(501));
        assert_eq!(
            connection.poll_finishes_at(HostTime(120_000)),
            None,
            "it has listed more Pages than the last poll"
        );
        connection.poll_progress = Some(progress(0));
        assert_eq!(
            connection.poll_finishes_at(HostTime(120_000)),
            None,
            "its speed is not known yet"
        );
    }
}
