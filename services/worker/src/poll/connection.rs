//! The poll of a connection: whether it is due and possible, then the walk, then what became of it.

use std::time::Duration;

use common::records::connection::{self, Connection, PollProgress, Status};
use common::records::{commit_one, load_record, token};
use common::sealing::{SealingError, Token};
use common::store::{CommitOutcome, StoreError, Versioned};
use model::id::UserId;
use model::job::Claim;

use super::commits::remove_due_commit;
use super::connection_poll::{ConnectionPoll, PollInterruption};
use super::connection_update::{Due, subject, update};
use super::poll_outcome::{Unusable, skip_day};
use super::rate_limits;
use crate::context::Context;

/// Cursors are not kept for longer: an older walk begins anew.
const PROGRESS_LIFETIME: Duration = Duration::from_secs(3600);

pub(super) async fn poll(
    context: &Context,
    user: &UserId,
    claim: &Claim,
) -> Result<(), StoreError> {
    let Some(Versioned { version, mut value }) = connection::find(&*context.store, user).await?
    else {
        commit_one(
            &*context.store,
            remove_due_commit(subject(user), connection::key(user)),
        )
        .await?;
        return Ok(());
    };
    let now = context.clock.now();
    let old = |walk: &PollProgress| walk.began_at.until(now) > PROGRESS_LIFETIME;
    value.poll_progress = value.poll_progress.filter(|walk| !old(walk));
    if value.poll_progress.is_none() && !value.polling.is_due(now, claim.due_at) {
        // Only the index is set right.
        commit_one(&*context.store, connection::save_commit(&value, version)).await?;
        return Ok(());
    }
    let guard = connection::epoch_guard(&*context.store, user).await?;
    let whose = rate_limits::CallBudget {
        user: Some(user),
        page: None,
    };
    if let Some(until) = rate_limits::blocked_until(context, whose, claim.queue).await? {
        value.polling.defer_until(until);
        value.problem = Some(rate_limits::blocked_message(until));
        commit_one(&*context.store, connection::save_commit(&value, version)).await?;
        return Ok(());
    }
    let token = match open_user_token(context, user).await {
        Ok(token) => token,
        Err(UserTokenError::Store(error)) => return Err(error),
        Err(UserTokenError::Unusable(unusable)) => {
            return skip_day(context, user, value.connected_at, &unusable).await;
        }
    };
    let begun = value
        .poll_progress
        .as_ref()
        .map_or(now, |walk| walk.began_at);
    let job = ConnectionPoll {
        context,
        user,
        token,
        guard,
        began_at: begun,
    };
    if !save_start(&job, &mut value, version).await? {
        // Somebody else wrote the connection: unless they walk, it is due by what they wrote and not by
        // our lease.
        let nobody_walks = |stored: &mut Connection, _: &mut _, _| stored.poll_progress.is_none();
        return update(context, user, None, Due::FromRecord, nobody_walks)
            .await
            .map(drop);
    }
    let ended = job.read_result_pages(value).await;
    let error = match &ended {
        Err(PollInterruption::Graph(error)) => Some(error),
        _ => None,
    };
    let throttled = rate_limits::record_reply(context, whose, error).await?;
    match ended {
        Ok(walk) => job.save_success(&walk).await,
        Err(PollInterruption::Graph(error)) => job.save_failure(&error, throttled).await,
        Err(PollInterruption::TimeIsUp) => update(
            context,
            user,
            Some(&job.guard),
            Due::FromRecord,
            |_, _, _| true,
        )
        .await
        .map(drop),
        Err(PollInterruption::Superseded) => Ok(()),
        Err(PollInterruption::Store(error)) => Err(error),
    }
}

/// Commits that a walk is under way. `Ok(false)`: somebody else wrote the connection meanwhile.
async fn save_start(
    job: &ConnectionPoll<'_>,
    value: &mut Connection,
    version: u64,
) -> Result<bool, StoreError> {
    value.polling.begin_attempt(job.began_at);
    value.poll_progress.get_or_insert(PollProgress {
        began_at: job.began_at,
        cursor: None,
        stamp: None,
        pages: 0,
        calls: 0,
    });
    let mut start = connection::save_commit(value, version);
    // The claim's lease stands while we walk: another due time would be claimed again.
    start.due.clear();
    start.guards.push(job.guard.clone());
    Ok(commit_one(&*job.context.store, start).await? == CommitOutcome::Applied)
}

/// Why the token of a person cannot be opened.
#[derive(Debug, thiserror::Error)]
enum UserTokenError {
    /// The connection cannot be used until a person acts.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The store did not answer, or its answer cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The person's token, or why there is none.
async fn open_user_token(context: &Context, user: &UserId) -> Result<Token, UserTokenError> {
    let unusable = |status, reason: String| Unusable { status, reason };
    let missing = || unusable(Status::NeedsLogin, "there is no token".to_owned());
    let key = token::user_key(user);
    let stored = load_record::<token::StoredToken>(&*context.store, &key).await?;
    let stored = stored.ok_or_else(missing)?;
    let keys = context.keyring.keys();
    let opened = keys.and_then(|keys| token::open_token(&key, &stored.value, &keys));
    match opened {
        Ok(token) => Ok(token.ok_or_else(missing)?),
        Err(error @ SealingError::UnknownKey(_)) => {
            Err(unusable(Status::NeedsKey, error.to_string()).into())
        }
        Err(error) => Err(unusable(Status::NeedsLogin, error.to_string()).into()),
    }
}
