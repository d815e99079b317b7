//! Changing the record of a connection that others change, too.

use std::time::Duration;

use common::records::commit;
use common::records::connection::{self, Connection, Status};
use common::store::{Commit, Key, Outcome, StoreError, Versioned};
use model::id::{Subject, UserId};
use model::time::Millis;

use crate::Parts;

/// Two walks for new tokens are at least this far apart.
const BETWEEN_WALKS: Duration = Duration::from_secs(3600);

pub(super) fn subject(user: &UserId) -> Subject {
    Subject::Connection(user.clone())
}

/// What a commit does to the due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The attempt is over: as the connection says.
    Settle,
    /// It goes on under the lease of its claim.
    Leave,
}

/// A Page's token is dead, and the person's may be alive: a walk gives the Page a new one. At most one
/// such walk in [`BETWEEN_WALKS`].
pub(super) async fn ask_for_tokens(parts: &Parts, user: &UserId) -> Result<(), StoreError> {
    update(parts, user, None, Due::Settle, |connection, _, now| {
        let long_ago = |at: Millis| at.until(now) > BETWEEN_WALKS;
        let may = connection.status == Status::Active
            && connection.walk.is_none()
            && connection
                .last
                .as_ref()
                .is_some_and(|last| long_ago(last.ended));
        if may {
            connection.polling.ask(now);
        }
        may
    })
    .await
    .map(drop)
}

/// Changes a connection and commits, on whatever version it has now. `change` answers whether the
/// connection is still what the caller thinks it is. `Ok(None)`: it is not.
pub(super) async fn update(
    parts: &Parts,
    user: &UserId,
    guard: Option<&(Key, u64)>,
    due: Due,
    change: impl Fn(&mut Connection, &mut Commit, Millis) -> bool,
) -> Result<Option<Connection>, StoreError> {
    loop {
        let Some(Versioned { version, mut value }) = connection::find(&*parts.store, user).await?
        else {
            return Ok(None);
        };
        let mut extra = Commit::default();
        if !change(&mut value, &mut extra, parts.clock.now()) {
            return Ok(None);
        }
        let mut next = connection::save(&value, version);
        next.records.append(&mut extra.records);
        next.guards.extend(guard.cloned());
        if due == Due::Leave {
            next.due.clear();
        }
        if commit(&*parts.store, next).await? == Outcome::Applied {
            return Ok(Some(value));
        }
        if let Some(guard) = guard
            && connection::guard(&*parts.store, user).await? != *guard
        {
            return Ok(None);
        }
    }
}
