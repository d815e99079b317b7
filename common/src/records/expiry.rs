//! Computes when connections expire, and the Pages to which they alone give access.

use model::id::{PageId, UserId};
use model::time::HostTime;

use super::connection::{self, Connection, Status};
use super::{load_chunk, token};
use crate::store::{RecordKind, Store, StoreError, StoredPage};

/// The numbers of days before the end of a connection at which its end is logged, once each.
pub const ALERT_DAYS: [u64; 4] = [14, 7, 3, 1];
const DAY_MILLIS: u64 = 24 * 3600 * 1000;

/// The end of a connection, and the Pages that can no longer be read after it.
#[derive(Debug, Clone)]
pub struct Expiry {
    /// The app-scoped id of the person.
    pub user: UserId,
    /// The name of the person at Facebook; `None` if it is not known.
    pub name: Option<String>,
    /// The client for whom the person connected Pages.
    pub client: Option<String>,
    /// The status of the connection.
    pub status: Status,
    /// When the token expires; `None` if it does not expire.
    pub token_expires_at: Option<HostTime>,
    /// When Facebook stops returning data until the next login; `None` if Facebook names no end.
    pub data_access_expires_at: Option<HostTime>,
    /// Whole days to the earlier of both; 0 within the last day and afterwards; `None` if the
    /// connection does not end.
    pub days_left: Option<u64>,
    /// The first 20 Pages to which no other active connection gives access.
    pub pages_lost: Vec<PageId>,
    /// How many such Pages there are.
    pub pages_lost_count: u64,
}

/// The largest number of Pages in [`Expiry::pages_lost`].
const MAX_NAMED_PAGES: usize = 20;

/// Returns when a connection expires: the earlier expiry of its token and its data access, or
/// `None` if it does not end.
pub fn expires_at(connection: &Connection) -> Option<HostTime> {
    let ends = [
        connection.token_expires_at,
        connection.data_access_expires_at,
    ];
    ends.into_iter().flatten().min()
}

/// Returns the whole days until a connection expires, or `None` if it does not expire. A connection
/// that needs a login has ended.
pub fn days_left(connection: &Connection, now: HostTime) -> Option<u64> {
    if connection.status == Status::NeedsLogin {
        return Some(0);
    }
    let end = expires_at(connection)?;
    Some(u64::try_from(now.until(end).as_millis()).unwrap_or(u64::MAX) / DAY_MILLIS)
}

/// Returns the expiry of every connection, the next to end first.
pub async fn list(store: &dyn Store, now: HostTime) -> Result<Vec<Expiry>, StoreError> {
    let connections = connection::list(store).await?;
    let mut expiries = Vec::with_capacity(connections.len());
    for connection in &connections {
        let (count, pages) = pages_without_other_access(store, connection, &connections).await?;
        expiries.push(Expiry {
            user: connection.user.clone(),
            name: connection.name.clone(),
            client: connection.client.clone(),
            status: connection.status,
            token_expires_at: connection.token_expires_at,
            data_access_expires_at: connection.data_access_expires_at,
            days_left: days_left(connection, now),
            pages_lost: pages,
            pages_lost_count: count,
        });
    }
    expiries.sort_by_key(|expiry| expiry.days_left.unwrap_or(u64::MAX));
    Ok(expiries)
}

/// Returns how many Pages of a connection no other active connection gives access to, and the first of them.
pub async fn pages_lost(
    store: &dyn Store,
    connection: &Connection,
) -> Result<(u64, Vec<PageId>), StoreError> {
    let all = connection::list(store).await?;
    pages_without_other_access(store, connection, &all).await
}

/// Returns the number of Pages of a connection to which no other active connection gives access,
/// and the first of them.
async fn pages_without_other_access(
    store: &dyn Store,
    connection: &Connection,
    all: &[Connection],
) -> Result<(u64, Vec<PageId>), StoreError> {
    let is_active = |user: &_| {
        all.iter()
            .any(|other| other.user == *user && other.status == Status::Active)
    };
    let (mut count, mut named, mut after) = (0, Vec::new(), None);
    let prefix = token::page_prefix(&connection.user);
    while let Some(tokens) =
        load_chunk::<token::StoredToken>(store, RecordKind::PageToken, &prefix, &mut after).await?
    {
        let with_token = tokens
            .iter()
            .filter(|(_, stored)| stored.value.sealed.is_some());
        let ids: Vec<PageId> = with_token
            .filter_map(|(id, _)| token::page_in_id(id))
            .collect();
        for (id, stored) in ids.iter().zip(store.load_pages(&ids).await?) {
            let StoredPage::Page(page) = stored.value else {
                continue;
            };
            let mut others = page
                .connections
                .iter()
                .filter(|user| **user != connection.user);
            if !others.any(is_active) {
                count += 1;
                if named.len() < MAX_NAMED_PAGES {
                    named.push(id.clone());
                }
            }
        }
    }
    Ok((count, named))
}
