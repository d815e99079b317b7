//! The poll of a connection: whether it is due and possible, then the walk, then what became of it.

use std::time::Duration;

use common::custody::{CustodyError, Token};
use common::records::connection::{self, Connection, Status, Walk};
use common::records::{commit, get, token};
use common::store::{Outcome, StoreError, Versioned};
use model::id::UserId;
use model::job::Claim;

use super::change::{Due, subject, update};
use super::commits::forget_due;
use super::limits;
use super::pace::is_due;
use super::walk::{Job, Stop};
use super::walked::skip;
use crate::Parts;

/// Cursors are not kept for longer: an older walk begins anew.
const WALK_LIVES: Duration = Duration::from_secs(3600);

pub(super) async fn poll(parts: &Parts, user: &UserId, claim: &Claim) -> Result<(), StoreError> {
    let Some(Versioned { version, mut value }) = connection::find(&*parts.store, user).await?
    else {
        commit(
            &*parts.store,
            forget_due(subject(user), connection::key(user)),
        )
        .await?;
        return Ok(());
    };
    let now = parts.clock.now();
    let old = |walk: &Walk| walk.begun.until(now) > WALK_LIVES;
    value.walk = value.walk.filter(|walk| !old(walk));
    if value.walk.is_none() && !is_due(&value.polling, now, claim.due) {
        // Only the index is set right.
        commit(&*parts.store, connection::save(&value, version)).await?;
        return Ok(());
    }
    let guard = connection::guard(&*parts.store, user).await?;
    let whose = limits::Whose {
        user: Some(user),
        page: None,
    };
    if let Some(until) = limits::closed(parts, whose, claim.lane).await? {
        value.polling.defer(until);
        value.problem = Some(limits::sentence(until));
        commit(&*parts.store, connection::save(&value, version)).await?;
        return Ok(());
    }
    let token = match open(parts, user).await? {
        Ok(token) => token,
        Err((status, why)) => return skip(parts, user, value.connected, (status, &why)).await,
    };
    let begun = value.walk.as_ref().map_or(now, |walk| walk.begun);
    let job = Job {
        parts,
        user,
        token,
        guard,
        begun,
    };
    if !begin(&job, &mut value, version).await? {
        // Somebody else wrote the connection: unless they walk, it is due by what they wrote and not by
        // our lease.
        let nobody_walks = |held: &mut Connection, _: &mut _, _| held.walk.is_none();
        return update(parts, user, None, Due::Settle, nobody_walks)
            .await
            .map(drop);
    }
    let ended = job.walk(value).await?;
    let error = match &ended {
        Err(Stop::Error(error)) => Some(error),
        _ => None,
    };
    let throttled = limits::note(parts, whose, error).await?;
    match ended {
        Ok(walk) => job.finish(&walk).await,
        Err(Stop::Error(error)) => job.fail(&error, throttled).await,
        Err(Stop::Pause) => update(parts, user, Some(&job.guard), Due::Settle, |_, _, _| true)
            .await
            .map(drop),
        Err(Stop::Lost) => Ok(()),
    }
}

/// Commits that a walk is under way. `Ok(false)`: somebody else wrote the connection meanwhile.
async fn begin(job: &Job<'_>, value: &mut Connection, version: u64) -> Result<bool, StoreError> {
    value.polling.start(job.begun);
    value.walk.get_or_insert(Walk {
        begun: job.begun,
        after: None,
        stamp: None,
        pages: 0,
        calls: 0,
    });
    let mut start = connection::save(value, version);
    // The claim's lease stands while we walk: another due time would be claimed again.
    start.due.clear();
    start.guards.push(job.guard.clone());
    Ok(commit(&*job.parts.store, start).await? == Outcome::Applied)
}

/// The person's token, or why there is none.
async fn open(parts: &Parts, user: &UserId) -> Result<Result<Token, (Status, String)>, StoreError> {
    let key = token::of_user(user);
    let Some(held) = get::<token::Held>(&*parts.store, &key).await? else {
        return Ok(Err((Status::NeedsLogin, "there is no token".to_owned())));
    };
    let keys = parts.keyring.keys();
    let opened = keys.and_then(|keys| token::open(&key, &held.value, &keys));
    Ok(match opened {
        Ok(Some(token)) => Ok(token),
        Ok(None) => Err((Status::NeedsLogin, "there is no token".to_owned())),
        Err(error @ CustodyError::NoKey(_)) => Err((Status::NeedsKey, error.to_string())),
        Err(error) => Err((Status::NeedsLogin, error.to_string())),
    })
}
