//! The poll of a connection: checks whether it is due and possible, reads the result pages, and
//! commits the outcome.
//!
//! Invariant: at most one job polls a connection at a time, because the commit that starts a poll
//! is stale if another job has written the connection.

use std::time::Duration;

use common::records::commit_one;
use common::records::connection::{self, Connection, PageSource, PollProgress};
use common::store::{CommitOutcome, StoreError, Versioned};
use model::id::UserId;
use model::job::Claim;
use model::time::HostTime;

use super::commits::remove_due_commit;
use super::connection_update::{DueUpdate, connection_subject, update_connection};
use super::poll_job::{ConnectionPoll, PollInterruption};
use super::rate_limits;
use super::unusable::mark_unusable;
use super::user_token::{UserTokenError, open_user_token};
use crate::context::Context;

/// How long after its start a poll continues at its cursor. An older poll starts from the
/// beginning.
const CURSOR_LIFETIME: Duration = Duration::from_secs(3600);
/// How long after its start a poll continues with the next list. Many Pages that are read singly can
/// use up a rate limit several times.
const PROGRESS_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Returns whether a poll that is under way starts from the beginning.
fn is_expired(progress: &PollProgress, now: HostTime) -> bool {
    let has_cursor = progress.cursor.is_some() || progress.source == PageSource::Accounts;
    let lifetime = if has_cursor {
        CURSOR_LIFETIME
    } else {
        PROGRESS_LIFETIME
    };
    progress.began_at.until(now) > lifetime
}

/// Polls a connection if it is due or its last poll is not complete. Fails if the store does not
/// answer; an error of Graph is recorded in the connection.
pub(super) async fn poll(
    context: &Context,
    user: &UserId,
    claim: &Claim,
) -> Result<(), StoreError> {
    let Some(Versioned { version, mut value }) = connection::find(&*context.store, user).await?
    else {
        let commit = remove_due_commit(connection_subject(user), connection::key(user));
        commit_one(&*context.store, commit).await?;
        return Ok(());
    };
    let now = context.clock.now();
    // The scheduler's clock may be ahead of this host's clock.
    let claimed_at = now.max(claim.due_at);
    // A poll that began in the future was started by a host whose clock was wrong.
    let is_valid =
        |progress: &PollProgress| !is_expired(progress, now) && progress.began_at <= claimed_at;
    value.poll_progress = value.poll_progress.filter(is_valid);
    value.polling.lower_impossible_times(claimed_at);
    if value.poll_progress.is_none() && !value.polling.is_due(now, claim.due_at) {
        // The commit only corrects the due index.
        commit_one(&*context.store, connection::update_commit(&value, version)).await?;
        return Ok(());
    }
    let guard = connection::epoch_guard(&*context.store, user).await?;
    let call_scope = rate_limits::CallScope {
        user: Some(user),
        page: None,
    };
    if let Some(until) = rate_limits::blocked_until(context, call_scope, claim.queue).await? {
        value.polling.defer_until(until);
        value.problem = Some(rate_limits::blocked_message(until));
        commit_one(&*context.store, connection::update_commit(&value, version)).await?;
        return Ok(());
    }
    let token = match open_user_token(context, user).await {
        Ok(token) => token,
        Err(UserTokenError::Store(error)) => return Err(error),
        Err(UserTokenError::Unusable(unusable)) => {
            return mark_unusable(context, user, value.connected_at, &unusable).await;
        }
    };
    let progress = value.poll_progress.as_ref();
    let began_at = progress.map_or(now, |progress| progress.began_at);
    let job = ConnectionPoll {
        context,
        user,
        token,
        guard,
        began_at,
        claimed_at,
    };
    if !save_start(&job, &mut value, version).await? {
        // Another job wrote the connection. If that job does not poll it, the due time of the
        // record replaces the lease of this claim.
        let is_not_polled = |stored: &mut Connection, _: &mut _, _| stored.poll_progress.is_none();
        return update_connection(context, user, None, DueUpdate::FromRecord, is_not_polled)
            .await
            .map(drop);
    }
    let result = job.read_result_pages(value).await;
    let error = match &result {
        Err(PollInterruption::Graph(error)) => Some(error),
        _ => None,
    };
    let blocked_until = rate_limits::record_reply(context, call_scope, error).await?;
    match result {
        Ok(progress) => job.save_success(&progress).await,
        Err(PollInterruption::Graph(error)) => job.save_failure(&error, blocked_until).await,
        Err(PollInterruption::TimeIsUp) => {
            let (guard, due) = (Some(&job.guard), DueUpdate::FromRecord);
            let updated = update_connection(context, user, guard, due, |_, _, _| true);
            updated.await.map(drop)
        }
        Err(PollInterruption::Superseded) => Ok(()),
        Err(PollInterruption::Store(error)) => Err(error),
    }
}

/// Commits the start of a job. Returns `false` if another job has written the connection meanwhile.
async fn save_start(
    job: &ConnectionPoll<'_>,
    value: &mut Connection,
    version: u64,
) -> Result<bool, StoreError> {
    value.polling.begin_attempt(job.began_at);
    value
        .poll_progress
        .get_or_insert_with(|| PollProgress::new(job.began_at));
    let mut start = connection::update_commit(value, version);
    // The due time stays the end of the lease, because an earlier one could be claimed during the
    // poll.
    start.due.clear();
    start.guards.push(job.guard.clone());
    Ok(commit_one(&*job.context.store, start).await? == CommitOutcome::Applied)
}
