//! Connections that cannot be used until a person acts, and the daily polls that are skipped then.
//!
//! Invariant: a login that comes meanwhile is not marked as unusable.

use common::graph::error::GraphError;
use common::records::connection::{Connection, PollOutcome, Status};
use common::records::daily_poll;
use common::retry;
use common::store::{Commit, StoreError};
use model::failure::{Failure, ReportedError};
use model::id::UserId;
use model::time::HostTime;

use super::connection_update::{DueUpdate, connection_subject, update_connection};
use crate::context::Context;

/// The reason why a connection cannot be used until a person acts.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct UnusableConnection {
    /// The status that the connection gets.
    pub(super) status: Status,
    /// The problem that an operator sees.
    pub(super) reason: String,
    /// What a person can do about it.
    remedy: String,
    /// The error that Facebook reported; `None` if Facebook reported none.
    reported: Option<Box<ReportedError>>,
}

impl UnusableConnection {
    /// Returns a reason that pagesync has found.
    pub(super) fn new(status: Status, reason: String) -> Self {
        let remedy = match status {
            Status::NeedsKey => "give the worker the private key: PAGESYNC_TOKEN_PRIVATE_KEYS",
            _ => "ask the person to log in again: `pagesync connection invite` prints the address",
        };
        Self {
            status,
            reason,
            remedy: remedy.to_owned(),
            reported: None,
        }
    }

    /// Returns the reason for a token that Facebook refuses.
    pub(super) fn of_error(error: &GraphError) -> Self {
        Self {
            status: Status::NeedsLogin,
            reason: error.to_string(),
            remedy: error.kind.remedy(),
            reported: error.reported.clone(),
        }
    }

    /// Returns the failure of an attempt that ended at `at` for this reason.
    fn failure(&self, at: HostTime) -> Failure {
        Failure {
            at,
            reason: self.reason.clone(),
            remedy: self.remedy.clone(),
            reported: self.reported.as_deref().cloned(),
        }
    }
}

/// Marks a connection as unusable, and skips its daily poll if that poll was due. The connection is
/// due again after a day. Nothing is written if the person has logged in since `connected_at`.
/// Fails if the store does not answer.
pub(super) async fn mark_unusable(
    context: &Context,
    user: &UserId,
    connected_at: HostTime,
    unusable: &UnusableConnection,
) -> Result<(), StoreError> {
    tracing::warn!(connection = %user, error = %unusable, "a connection cannot be used");
    update_connection(
        context,
        user,
        None,
        DueUpdate::FromRecord,
        |connection, commit, now| {
            if connection.connected_at != connected_at {
                // A login has replaced the token that cannot be used.
                return false;
            }
            skip_daily_poll(context, connection, commit, now);
            // A poll that is under way must not make the connection active again.
            connection.poll_progress = None;
            connection.status = unusable.status;
            connection.problem = Some(unusable.reason.clone());
            connection.last_failure = Some(unusable.failure(now));
            connection.polling.fail_attempt(now.plus(retry::ONE_DAY));
            true
        },
    )
    .await
    .map(drop)
}

/// If the daily poll of a connection was due at `now`, records it as skipped and sets the slot of the
/// next day.
pub(super) fn skip_daily_poll(
    context: &Context,
    connection: &mut Connection,
    commit: &mut Commit,
    now: HostTime,
) {
    let Some(slot) = connection.polling.daily_slot.filter(|slot| *slot <= now) else {
        return;
    };
    let result = daily_poll::DailyPollResult::Skipped;
    let record = daily_poll_record(context, &connection.user, result, slot, None);
    commit.records.push(daily_poll::daily_poll_write(&record));
    let subject = connection_subject(&connection.user);
    let next = context.daily_schedule.slot_on_next_day(&subject, now);
    connection.polling.daily_slot = Some(next);
}

/// Returns the daily poll record for the local day of `slot`. `outcome` is `None` if no poll ran.
pub(super) fn daily_poll_record(
    context: &Context,
    user: &UserId,
    result: daily_poll::DailyPollResult,
    slot: HostTime,
    outcome: Option<&PollOutcome>,
) -> daily_poll::DailyPoll {
    daily_poll::DailyPoll {
        connection: user.clone(),
        day: context.daily_schedule.local_day(slot),
        result,
        slot,
        ended_at: outcome.map(|outcome| outcome.ended_at),
        pages: outcome.map_or(0, |outcome| outcome.pages),
        calls: outcome.map_or(0, |outcome| outcome.calls),
    }
}
