//! The JSON of connections.

use model::id::{PageId, UserId};
use model::time::HostTime;
use serde::Serialize;
use utoipa::ToSchema;

use crate::records::connection::{
    self, Connection, MissingPermission, PollOutcome, PollProgress, Status,
};
use crate::records::expiry::Expiry;
use crate::records::{load_all, token};
use crate::store::{RecordKind, Store, StoreError, Versioned};
use crate::timestamp::rfc3339;
use crate::views::failure::{FailureView, failure_view};

/// A connection in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ConnectionView {
    /// The app-scoped id of the person.
    #[schema(value_type = String)]
    pub id: UserId,
    /// How often the connection was written.
    pub version: u64,
    /// The name of the person at Facebook; null if it is not known.
    pub name: Option<String>,
    /// The client for whom the person connected Pages; null if no invitation named one.
    pub client: Option<String>,
    /// The status of the connection.
    pub status: Status,
    /// When the person last logged in.
    pub connected_at: String,
    /// When the token expires; null if it does not expire.
    pub token_expires_at: Option<String>,
    /// When Facebook stops returning data until the next login; null if Facebook names no end.
    pub data_access_expires_at: Option<String>,
    /// The permissions that the person granted.
    pub permissions: Vec<String>,
    /// The requested permissions that the person did not grant.
    pub missing_permissions: Vec<MissingPermission>,
    /// The last complete poll; null if there was none.
    pub last_poll: Option<PollView>,
    /// The poll that is under way; null if there is none.
    pub poll_in_progress: Option<PollProgressView>,
    /// When the Pages of the connection are read next; null if they are not read.
    pub next_read_at: Option<String>,
    /// The problem of the connection; null if there is none.
    pub problem: Option<String>,
    /// The last failed attempt; null if the last attempt did not fail.
    pub last_failure: Option<FailureView>,
}

/// A complete poll of a connection.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PollView {
    /// When it began.
    pub began_at: String,
    /// When it ended.
    pub ended_at: String,
    /// How many Pages it listed.
    pub pages: u64,
    /// How many result pages it requested.
    pub calls: u64,
}

/// A poll of a connection that is under way.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PollProgressView {
    /// When it began.
    pub began_at: String,
    /// How many Pages it has listed.
    pub pages: u64,
    /// How many result pages it has requested.
    pub calls: u64,
    /// An estimate of when it will be complete; null if there is nothing to estimate from.
    pub finishes_at: Option<String>,
}

/// A connection with the ids of its Pages.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ConnectionDetail {
    /// The connection as it appears in a list.
    #[serde(flatten)]
    pub connection: ConnectionView,
    /// The Pages that the connection gives access to.
    #[schema(value_type = Vec<String>)]
    pub page_ids: Vec<PageId>,
    /// The address where the person is asked again for the missing permissions, with an invitation if
    /// logins need one; null if none is missing, or if a setting of the address is not set on this
    /// host.
    pub login_address: Option<String>,
}

/// A connection that expires, with the Pages to which no other active connection gives access.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ExpiringConnection {
    /// The app-scoped id of the person.
    #[schema(value_type = String)]
    pub id: UserId,
    /// Their name at Facebook; null if it is not known.
    pub name: Option<String>,
    /// The client for whom they connected Pages; null if no invitation named one.
    pub client: Option<String>,
    /// The status of the connection.
    pub status: Status,
    /// When the token expires; null if it does not expire.
    pub token_expires_at: Option<String>,
    /// When Facebook stops returning data until the next login; null if Facebook names no end.
    pub data_access_expires_at: Option<String>,
    /// Whole days to the earlier of both; 0 within the last day and afterwards; null if the
    /// connection does not end.
    pub days_left: Option<u64>,
    /// The number of Pages to which no other active connection gives access.
    pub pages_lost_count: u64,
    /// The first of these Pages.
    #[schema(value_type = Vec<String>)]
    pub pages_lost: Vec<PageId>,
}

fn poll_view(poll: &PollOutcome) -> PollView {
    PollView {
        began_at: rfc3339(poll.began_at),
        ended_at: rfc3339(poll.ended_at),
        pages: poll.pages,
        calls: poll.calls,
    }
}

/// Returns the connections of a client, or all of them, as they are at `now`.
pub async fn list_connections(
    store: &dyn Store,
    client: Option<&str>,
    requested: &[String],
    now: HostTime,
) -> Result<Vec<ConnectionView>, StoreError> {
    let stored = load_all::<Connection>(store, RecordKind::Connection, "").await?;
    let is_listed = |connection: &Versioned<Connection>| {
        client.is_none() || connection.value.client.as_deref() == client
    };
    let listed = stored.iter().filter(|(_, stored)| is_listed(stored));
    Ok(listed
        .map(|(_, stored)| connection_view(stored, requested, now))
        .collect())
}

/// Returns a connection with its Pages as it is at `now`, or `None` if there is none. It has no
/// address to log in again.
pub async fn load_connection(
    store: &dyn Store,
    user: &UserId,
    requested: &[String],
    now: HostTime,
) -> Result<Option<ConnectionDetail>, StoreError> {
    let Some(stored) = connection::find(store, user).await? else {
        return Ok(None);
    };
    let prefix = token::page_prefix(user);
    let tokens = load_all::<token::StoredToken>(store, RecordKind::PageToken, &prefix).await?;
    let with_access = tokens
        .iter()
        .filter(|(_, stored)| stored.value.gives_access());
    Ok(Some(ConnectionDetail {
        connection: connection_view(&stored, requested, now),
        page_ids: with_access
            .filter_map(|(id, _)| token::page_in_id(id))
            .collect(),
        login_address: None,
    }))
}

/// Returns a connection as it is at `now`. `requested` are the permissions that the app requests.
fn connection_view(
    stored: &Versioned<Connection>,
    requested: &[String],
    now: HostTime,
) -> ConnectionView {
    let connection = &stored.value;
    let in_progress = |progress: &PollProgress| PollProgressView {
        began_at: rfc3339(progress.began_at),
        pages: progress.pages,
        calls: progress.calls,
        finishes_at: connection.poll_finishes_at(now).map(rfc3339),
    };
    ConnectionView {
        id: connection.user.clone(),
        version: stored.version,
        name: connection.name.clone(),
        client: connection.client.clone(),
        status: connection.status,
        connected_at: rfc3339(connection.connected_at),
        token_expires_at: connection.token_expires_at.map(rfc3339),
        data_access_expires_at: connection.data_access_expires_at.map(rfc3339),
        permissions: connection.permissions.clone(),
        missing_permissions: connection.missing_permissions(requested),
        last_poll: connection.last_poll.as_ref().map(poll_view),
        poll_in_progress: connection.poll_progress.as_ref().map(in_progress),
        next_read_at: connection.polling.due().map(|(_, at)| rfc3339(at)),
        problem: connection.problem.clone(),
        last_failure: connection.last_failure.as_ref().map(failure_view),
    }
}

/// Returns a connection that expires.
pub fn expiring_view(expiry: &Expiry) -> ExpiringConnection {
    ExpiringConnection {
        id: expiry.user.clone(),
        name: expiry.name.clone(),
        client: expiry.client.clone(),
        status: expiry.status,
        token_expires_at: expiry.token_expires_at.map(rfc3339),
        data_access_expires_at: expiry.data_access_expires_at.map(rfc3339),
        days_left: expiry.days_left,
        pages_lost_count: expiry.pages_lost_count,
        pages_lost: expiry.pages_lost.clone(),
    }
}
