//! When logins end, and which Pages go with each.

use model::id::PageId;
use model::time::Millis;
use serde::Serialize;

use super::connection::{self, Connection, Status};
use super::{chunk, token};
use crate::store::{Kind, Store, StoreError, Stored};

/// So many days before its end an operator is told, once each.
pub const ALERTS: [u64; 4] = [14, 7, 3, 1];
const DAY: u64 = 24 * 3600 * 1000;

/// How a connection ends.
#[derive(Debug, Clone, Serialize)]
pub struct Forecast {
    /// Whose.
    pub user: String,
    /// Their name at Facebook.
    pub name: Option<String>,
    /// Whether it works now.
    pub status: Status,
    /// When the token ends; null: never, or it is renewed before.
    pub expires_at: Option<Millis>,
    /// When Facebook stops giving data until the next login.
    pub data_access_expires_at: Option<Millis>,
    /// Whole days to the earlier of both; 0: within a day, or it has ended.
    pub days_left: Option<u64>,
    /// Pages nobody else's working login covers, the first of them.
    pub takes_down: Vec<PageId>,
    /// How many they are.
    pub takes_down_count: u64,
}

/// Pages named in a forecast.
const NAMED: usize = 20;

/// When a connection ends: the earlier of its token and its data access.
pub fn end(connection: &Connection) -> Option<Millis> {
    let ends = [connection.expires, connection.data_access_expires];
    ends.into_iter().flatten().min()
}

/// Whole days until a connection ends. `None`: nobody knows of an end.
pub fn days_left(connection: &Connection, now: Millis) -> Option<u64> {
    let end = end(connection)?;
    Some(u64::try_from(now.until(end).as_millis()).unwrap_or(u64::MAX) / DAY)
}

/// The forecast of every connection, the next to end first.
pub async fn all(store: &dyn Store, now: Millis) -> Result<Vec<Forecast>, StoreError> {
    let connections = connection::list(store).await?;
    let mut forecasts = Vec::with_capacity(connections.len());
    for connection in &connections {
        let (count, pages) = taken_down(store, connection, &connections).await?;
        forecasts.push(Forecast {
            user: connection.user.to_string(),
            name: connection.name.clone(),
            status: connection.status,
            expires_at: connection.expires,
            data_access_expires_at: connection.data_access_expires,
            days_left: days_left(connection, now),
            takes_down: pages,
            takes_down_count: count,
        });
    }
    forecasts.sort_by_key(|forecast| forecast.days_left.unwrap_or(u64::MAX));
    Ok(forecasts)
}

/// The Pages that only this connection keeps up to date.
async fn taken_down(
    store: &dyn Store,
    connection: &Connection,
    all: &[Connection],
) -> Result<(u64, Vec<PageId>), StoreError> {
    let works = |user: &_| {
        all.iter()
            .any(|other| other.user == *user && other.status == Status::Active)
    };
    let (mut count, mut named, mut after) = (0, Vec::new(), None);
    let prefix = token::prefix(&connection.user);
    while let Some(tokens) =
        chunk::<token::Held>(store, Kind::PageToken, &prefix, &mut after).await?
    {
        let given = tokens
            .iter()
            .filter(|(_, held)| held.value.sealed.is_some());
        let ids: Vec<PageId> = given.filter_map(|(id, _)| token::page_of(id)).collect();
        for (id, held) in ids.iter().zip(store.load(&ids).await?) {
            let Stored::Page(page) = held.value else {
                continue;
            };
            let mut others = page
                .connections
                .iter()
                .filter(|user| **user != connection.user);
            if !others.any(works) {
                count += 1;
                if named.len() < NAMED {
                    named.push(id.clone());
                }
            }
        }
    }
    Ok((count, named))
}
