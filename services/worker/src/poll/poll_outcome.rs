//! What became of a walk: the next due time, the ledger of daily polls, Pages that were not listed,
//! failures.

use common::graph::error::GraphError;
use common::pages;
use common::records::connection::{
    Connection, MAX_RESULT_PAGE_SIZE, PollOutcome, PollProgress, Status,
};
use common::records::{daily_poll, load_chunk, token};
use common::retry;
use common::store::{Commit, RecordKind, StoreError};
use model::id::UserId;
use model::time::HostTime;

use super::connection_poll::ConnectionPoll;
use super::connection_update::{Due, subject, update};
use super::page_tokens::is_listed_for_other_connection;
use super::rate_limits;
use crate::context::Context;

/// Why a connection cannot be used until a person acts.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Unusable {
    /// The status that the connection gets.
    pub(super) status: Status,
    /// The problem that an operator sees.
    pub(super) reason: String,
}

/// A connection that cannot be used today: its day is skipped, it is looked at again tomorrow.
pub(super) async fn skip_day(
    context: &Context,
    user: &UserId,
    connected: HostTime,
    unusable: &Unusable,
) -> Result<(), StoreError> {
    tracing::warn!(connection = %user, why = %unusable, "a connection cannot be used");
    update(
        context,
        user,
        None,
        Due::FromRecord,
        |connection, commit, now| {
            if connection.connected_at != connected {
                // A login came first: this was about the token before.
                return false;
            }
            if let Some(slot) = connection.polling.daily_slot.filter(|slot| *slot <= now) {
                let row = daily_poll_record(
                    context,
                    user,
                    daily_poll::DailyPollResult::Skipped,
                    slot,
                    None,
                );
                commit.records.push(daily_poll::daily_poll_write(&row));
                connection.polling.daily_slot =
                    Some(context.daily_schedule.slot_on_next_day(&subject(user), now));
            }
            connection.status = unusable.status;
            connection.problem = Some(unusable.reason.clone());
            connection.polling.fail_attempt(now.plus(retry::ONE_DAY));
            true
        },
    )
    .await
    .map(drop)
}

fn daily_poll_record(
    context: &Context,
    user: &UserId,
    result: daily_poll::DailyPollResult,
    slot: HostTime,
    walked: Option<&PollOutcome>,
) -> daily_poll::DailyPoll {
    daily_poll::DailyPoll {
        connection: user.clone(),
        day: context.daily_schedule.local_day(slot),
        result,
        slot,
        ended_at: walked.map(|walked| walked.ended_at),
        pages: walked.map_or(0, |walked| walked.pages),
        calls: walked.map_or(0, |walked| walked.calls),
    }
}

impl ConnectionPoll<'_> {
    pub(super) async fn save_success(&self, walk: &PollProgress) -> Result<(), StoreError> {
        let context = self.context;
        let done = update(context, self.user, Some(&self.guard), Due::FromRecord, |connection, extra, now| {
            if connection.poll_progress.as_ref().map(|stored| stored.began_at) != Some(walk.began_at) {
                return false;
            }
            let walked = PollOutcome {
                began_at: walk.began_at,
                ended_at: now,
                pages: walk.pages,
                calls: walk.calls,
            };
            self.add_daily_poll_records(connection, &walked, extra);
            let next = self.next_slot(connection, now);
            let stamp = walk.stamp.unwrap_or_default();
            connection.polling.complete_read(walk.began_at, stamp, next);
            connection.poll_progress = None;
            connection.status = Status::Active;
            connection.problem = (walk.pages == 0).then(|| {
                "Facebook lists no Page: were they unticked, or is business_management missing?".to_owned()
            });
            connection.last_poll = Some(walked);
            // Smaller result pages are for the hour, not for ever.
            connection.result_page_size = (connection.result_page_size * 2).min(MAX_RESULT_PAGE_SIZE);
            true
        })
        .await?;
        let Some(done) = done else { return Ok(()) };
        if walk.pages > 0 {
            self.request_reads_of_unlisted(walk).await?;
        }
        self.maintain_token(done.token_inspected_at, done.token_expires_at)
            .await
    }

    /// Enters a daily walk into the ledger, and the days nobody was up for.
    fn add_daily_poll_records(
        &self,
        connection: &Connection,
        walked: &PollOutcome,
        extra: &mut Commit,
    ) {
        let days = &self.context.daily_schedule;
        let Some(slot) = connection
            .polling
            .daily_slot
            .filter(|slot| *slot <= walked.began_at)
        else {
            return;
        };
        let day = days.local_day(walked.began_at);
        let late = slot.until(walked.began_at) > daily_poll::LATE_AFTER;
        let result = if late {
            daily_poll::DailyPollResult::RanLate
        } else {
            daily_poll::DailyPollResult::Ran
        };
        let ran = daily_poll::DailyPoll {
            day: day.clone(),
            ..daily_poll_record(self.context, self.user, result, slot, Some(walked))
        };
        extra.records.push(daily_poll::daily_poll_write(&ran));
        if days.local_day(slot) != day && late {
            let between =
                days.local_days_between(slot, walked.began_at, daily_poll::MAX_MISSED_DAYS);
            for missed in std::iter::once(days.local_day(slot)).chain(between) {
                let row = daily_poll::DailyPoll {
                    day: missed,
                    ..daily_poll_record(
                        self.context,
                        self.user,
                        daily_poll::DailyPollResult::Missed,
                        slot,
                        None,
                    )
                };
                extra.records.push(daily_poll::daily_poll_write(&row));
            }
        }
    }

    /// Pages that earlier walks found and this one did not: their own tokens are asked, unless the walk
    /// of another person reads them.
    async fn request_reads_of_unlisted(&self, walk: &PollProgress) -> Result<(), StoreError> {
        let store = &*self.context.store;
        let prefix = token::page_prefix(self.user);
        let mut after = None;
        while let Some(stored) =
            load_chunk::<token::StoredToken>(store, RecordKind::PageToken, &prefix, &mut after)
                .await?
        {
            let unlisted = stored
                .into_iter()
                .filter(|(_, stored)| stored.value.obtained_at < walk.began_at);
            for id in unlisted.filter_map(|(id, _)| token::page_in_id(&id)) {
                if is_listed_for_other_connection(self.context, &id, self.user).await? {
                    continue;
                }
                tracing::info!(page.id = %id, connection = %self.user, "a Page is not listed any more: its own token is asked");
                pages::request_read(store, &id, self.context.clock.now()).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn save_failure(
        &self,
        error: &GraphError,
        throttled: Option<HostTime>,
    ) -> Result<(), StoreError> {
        tracing::warn!(connection = %self.user, error = %error, "the Pages of a connection could not be read");
        update(
            self.context,
            self.user,
            Some(&self.guard),
            Due::FromRecord,
            |connection, extra, now| {
                if connection.poll_progress.as_ref().map(|walk| walk.began_at)
                    != Some(self.began_at)
                {
                    // A login came first: this was about the walk before.
                    return false;
                }
                if let Some(until) = throttled {
                    connection.polling.defer_until(until);
                    connection.problem = Some(rate_limits::blocked_message(until));
                    return true;
                }
                let had_cursor = connection
                    .poll_progress
                    .as_ref()
                    .is_some_and(|walk| walk.cursor.is_some());
                connection.status = match error {
                    GraphError::Token { .. } => Status::NeedsLogin,
                    GraphError::Permission(_) => Status::NeedsPermission,
                    _ => connection.status,
                };
                connection.problem = Some(error.to_string());
                let begun = connection
                    .poll_progress
                    .as_ref()
                    .map_or(now, |walk| walk.began_at);
                let waits_a_day = connection.status != Status::Active;
                if let Some(slot) = connection
                    .polling
                    .daily_slot
                    .filter(|slot| waits_a_day && *slot <= begun)
                {
                    let row = daily_poll_record(
                        self.context,
                        self.user,
                        daily_poll::DailyPollResult::Skipped,
                        slot,
                        None,
                    );
                    extra.records.push(daily_poll::daily_poll_write(&row));
                    connection.polling.daily_slot = Some(
                        self.context
                            .daily_schedule
                            .slot_on_next_day(&subject(self.user), begun),
                    );
                }
                if !matches!(error, GraphError::Transient(_)) {
                    // A cursor may be why; the next walk begins anew.
                    connection.poll_progress = None;
                }
                // Facebook may refuse an old cursor as a bad parameter: from the start it may work.
                let again = GraphError::UnexpectedReply(String::new());
                let is_cursor = had_cursor && matches!(error, GraphError::Configuration(_));
                let why = if is_cursor { &again } else { error };
                let at = now.plus(retry::delay_after(why, connection.polling.failures));
                connection.polling.fail_attempt(at);
                true
            },
        )
        .await
        .map(drop)
    }
}
