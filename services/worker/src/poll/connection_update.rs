//! Changes to the record of a connection, which several jobs may write at the same time.
//!
//! Invariant: a change is applied to the stored version of the record, and if the commit is stale,
//! it is applied again to the newer version.

use std::time::Duration;

use common::pages::{self, COMMIT_BATCH};
use common::records::connection::{self, Connection, Status};
use common::records::{commit_one, load_chunk, token};
use common::store::{Commit, CommitOutcome, RecordGuard, RecordKind, StoreError, Versioned};
use model::id::{PageId, Subject, UserId};
use model::page::{self, Page};
use model::time::HostTime;

use crate::context::Context;

/// The minimum time from a connection poll to one that is requested for new Page tokens.
const TOKEN_POLL_INTERVAL: Duration = Duration::from_secs(3600);

/// Returns the subject of the connection of `user`.
pub(super) fn connection_subject(user: &UserId) -> Subject {
    Subject::Connection(user.clone())
}

/// The effect of a commit on the due time of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DueUpdate {
    /// The due time is set to that of the record.
    FromRecord,
    /// The due index is not changed, because a job may be polling the connection, and the lease of
    /// its claim must stay valid.
    Unchanged,
}

/// Returns whether the last complete poll of a connection ended less than [`TOKEN_POLL_INTERVAL`] ago.
pub(super) fn was_polled_recently(connection: &Connection, now: HostTime) -> bool {
    let last_poll = connection.last_poll.as_ref();
    last_poll.is_some_and(|last| last.ended_at.until(now) <= TOKEN_POLL_INTERVAL)
}

/// Requests a connection poll, which obtains new Page tokens. Does nothing if the connection is not
/// active, is being polled, was never polled, or was polled within [`TOKEN_POLL_INTERVAL`]. Fails
/// if the store does not answer.
pub(super) async fn request_poll_for_tokens(
    context: &Context,
    user: &UserId,
) -> Result<(), StoreError> {
    update_connection(
        context,
        user,
        None,
        DueUpdate::FromRecord,
        |connection, _, now| {
            let is_allowed = connection.status == Status::Active
                && connection.poll_progress.is_none()
                && connection.last_poll.is_some()
                && !was_polled_recently(connection, now);
            if is_allowed {
                connection.polling.request_read(now);
            }
            is_allowed
        },
    )
    .await
    .map(drop)
}

/// Requests a connection poll now. Does nothing if one is under way. Fails if the store does not
/// answer.
pub(super) async fn request_poll(context: &Context, user: &UserId) -> Result<(), StoreError> {
    let due = DueUpdate::FromRecord;
    let request = |connection: &mut Connection, _: &mut Commit, now| {
        if connection.poll_progress.is_some() {
            return false;
        }
        connection.polling.request_read_now(now);
        true
    };
    update_connection(context, user, None, due, request)
        .await
        .map(drop)
}

/// Requests a read of every Page that a person gives access to, because it may show `expected`. A Page
/// that a read has shown so already waits for its next attempt: otherwise a Page whose read was refused
/// before the connection's would be read twice in a minute.
pub(super) async fn request_reads(
    context: &Context,
    user: &UserId,
    expected: page::Status,
) -> Result<(), StoreError> {
    let (store, now) = (&*context.store, context.clock.now());
    let is_needed = |page: &Page| page.status != expected || page.polling.not_before <= Some(now);
    let prefix = token::page_prefix(user);
    let mut after = None;
    while let Some(stored) =
        load_chunk::<token::StoredToken>(store, RecordKind::PageToken, &prefix, &mut after).await?
    {
        let with_access = stored
            .into_iter()
            .filter(|(_, stored)| stored.value.gives_access());
        let ids: Vec<PageId> = with_access
            .filter_map(|(id, _)| token::page_in_id(&id))
            .collect();
        for batch in ids.chunks(COMMIT_BATCH) {
            pages::request_reads_of(store, batch, now, is_needed).await?;
        }
    }
    Ok(())
}

/// Changes a connection and commits it, with the records that `change` adds. `change` returns
/// whether the connection is in the state that the caller expects; it is called again if the commit
/// is stale. Returns `None` if nothing was written: the connection is in another state or does not
/// exist, or `guard` is out of date. Fails if the store does not answer.
pub(super) async fn update_connection(
    context: &Context,
    user: &UserId,
    guard: Option<&RecordGuard>,
    due: DueUpdate,
    change: impl Fn(&mut Connection, &mut Commit, HostTime) -> bool,
) -> Result<Option<Connection>, StoreError> {
    loop {
        let Some(Versioned { version, mut value }) =
            connection::find(&*context.store, user).await?
        else {
            return Ok(None);
        };
        let mut extra = Commit::default();
        if !change(&mut value, &mut extra, context.clock.now()) {
            return Ok(None);
        }
        let mut next = connection::update_commit(&value, version);
        next.records.append(&mut extra.records);
        next.guards.extend(guard.cloned());
        if due == DueUpdate::Unchanged {
            next.due.clear();
        }
        if commit_one(&*context.store, next).await? == CommitOutcome::Applied {
            return Ok(Some(value));
        }
        if let Some(guard) = guard
            && connection::epoch_guard(&*context.store, user).await? != *guard
        {
            return Ok(None);
        }
    }
}
