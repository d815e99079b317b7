//! When logins end, and which Pages go with each.

use model::id::{PageId, UserId};
use model::time::HostTime;

use super::connection::{self, Connection, Status};
use super::{load_chunk, token};
use crate::store::{RecordKind, Store, StoreError, StoredPage};

/// So many days before its end an operator is told, once each.
pub const ALERT_DAYS: [u64; 4] = [14, 7, 3, 1];
const DAY: u64 = 24 * 3600 * 1000;

/// How a connection ends.
#[derive(Debug, Clone)]
pub struct Expiry {
    /// Whose.
    pub user: UserId,
    /// Their name at Facebook.
    pub name: Option<String>,
    /// Whether it works now.
    pub status: Status,
    /// When the token ends; null: never, or it is renewed before.
    pub token_expires_at: Option<HostTime>,
    /// When Facebook stops giving data until the next login.
    pub data_access_expires_at: Option<HostTime>,
    /// Whole days to the earlier of both; 0: within a day, or it has ended.
    pub days_left: Option<u64>,
    /// Pages nobody else's working login covers, the first of them.
    pub pages_lost: Vec<PageId>,
    /// How many they are.
    pub pages_lost_count: u64,
}

/// Pages named in a forecast.
const MAX_NAMED_PAGES: usize = 20;

/// When a connection ends: the earlier of its token and its data access.
pub fn ends_at(connection: &Connection) -> Option<HostTime> {
    let ends = [
        connection.token_expires_at,
        connection.data_access_expires_at,
    ];
    ends.into_iter().flatten().min()
}

/// Whole days until a connection ends. `None`: nobody knows of an end.
pub fn days_left(connection: &Connection, now: HostTime) -> Option<u64> {
    let end = ends_at(connection)?;
    Some(u64::try_from(now.until(end).as_millis()).unwrap_or(u64::MAX) / DAY)
}

/// The forecast of every connection, the next to end first.
pub async fn list(store: &dyn Store, now: HostTime) -> Result<Vec<Expiry>, StoreError> {
    let connections = connection::list(store).await?;
    let mut forecasts = Vec::with_capacity(connections.len());
    for connection in &connections {
        let (count, pages) = pages_without_other_access(store, connection, &connections).await?;
        forecasts.push(Expiry {
            user: connection.user.clone(),
            name: connection.name.clone(),
            status: connection.status,
            token_expires_at: connection.token_expires_at,
            data_access_expires_at: connection.data_access_expires_at,
            days_left: days_left(connection, now),
            pages_lost: pages,
            pages_lost_count: count,
        });
    }
    forecasts.sort_by_key(|forecast| forecast.days_left.unwrap_or(u64::MAX));
    Ok(forecasts)
}

/// The Pages that only this connection keeps up to date.
async fn pages_without_other_access(
    store: &dyn Store,
    connection: &Connection,
    all: &[Connection],
) -> Result<(u64, Vec<PageId>), StoreError> {
    let works = |user: &_| {
        all.iter()
            .any(|other| other.user == *user && other.status == Status::Active)
    };
    let (mut count, mut named, mut after) = (0, Vec::new(), None);
    let prefix = token::page_prefix(&connection.user);
    while let Some(tokens) =
        load_chunk::<token::StoredToken>(store, RecordKind::PageToken, &prefix, &mut after).await?
    {
        let given = tokens
            .iter()
            .filter(|(_, stored)| stored.value.sealed.is_some());
        let ids: Vec<PageId> = given.filter_map(|(id, _)| token::page_in_id(id)).collect();
        for (id, stored) in ids.iter().zip(store.load_pages(&ids).await?) {
            let StoredPage::Page(page) = stored.value else {
                continue;
            };
            let mut others = page
                .connections
                .iter()
                .filter(|user| **user != connection.user);
            if !others.any(works) {
                count += 1;
                if named.len() < MAX_NAMED_PAGES {
                    named.push(id.clone());
                }
            }
        }
    }
    Ok((count, named))
}
