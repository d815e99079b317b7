//! Changing the record of a connection that others change, too.

use std::time::Duration;

use common::records::commit_one;
use common::records::connection::{self, Connection, Status};
use common::store::{Commit, CommitOutcome, RecordKey, StoreError, Versioned};
use model::id::{Subject, UserId};
use model::time::HostTime;

use crate::context::Context;

/// Two walks for new tokens are at least this far apart.
const TOKEN_POLL_INTERVAL: Duration = Duration::from_secs(3600);

pub(super) fn subject(user: &UserId) -> Subject {
    Subject::Connection(user.clone())
}

/// What a commit does to the due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The attempt is over: as the connection says.
    FromRecord,
    /// It goes on under the lease of its claim.
    Keep,
}

/// A Page's token is dead, and the person's may be alive: a walk gives the Page a new one. At most one
/// such walk in [`BETWEEN_WALKS`].
pub(super) async fn request_poll_for_tokens(
    context: &Context,
    user: &UserId,
) -> Result<(), StoreError> {
    update(
        context,
        user,
        None,
        Due::FromRecord,
        |connection, _, now| {
            let long_ago = |at: HostTime| at.until(now) > TOKEN_POLL_INTERVAL;
            let may = connection.status == Status::Active
                && connection.poll_progress.is_none()
                && connection
                    .last_poll
                    .as_ref()
                    .is_some_and(|last| long_ago(last.ended_at));
            if may {
                connection.polling.request_read(now);
            }
            may
        },
    )
    .await
    .map(drop)
}

/// Changes a connection and commits, on whatever version it has now. `change` answers whether the
/// connection is still what the caller thinks it is. `Ok(None)`: it is not.
pub(super) async fn update(
    context: &Context,
    user: &UserId,
    guard: Option<&(RecordKey, u64)>,
    due: Due,
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
        let mut next = connection::save_commit(&value, version);
        next.records.append(&mut extra.records);
        next.guards.extend(guard.cloned());
        if due == Due::Keep {
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
