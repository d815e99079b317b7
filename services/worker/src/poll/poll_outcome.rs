//! The outcome of a connection poll: the next due time, the daily poll record, reads of Pages that
//! were not listed, and failures.
//!
//! Invariant: an outcome is committed only if the connection has had no login since the poll began,
//! and if no other poll has taken its place.

use std::sync::atomic::{AtomicBool, Ordering};

use common::graph::error::{ErrorKind, GraphError};
use common::pages::{self, COMMIT_BATCH};
use common::records::connection::{
    Connection, MAX_RESULT_PAGE_SIZE, PollOutcome, PollProgress, Status,
};
use common::records::{daily_poll, load_chunk, token, token_inspection};
use common::retry;
use common::store::{Commit, RecordKind, StoreError};
use model::id::PageId;
use model::page;
use model::time::HostTime;

use super::connection_update::{DueUpdate, request_reads, update_connection};
use super::poll_job::ConnectionPoll;
use super::rate_limits;
use super::unusable::{daily_poll_record, skip_daily_poll};

impl ConnectionPoll<'_> {
    /// Commits a complete connection poll, and requests reads of Pages that were not listed. Fails if
    /// the store does not answer.
    pub(super) async fn save_success(&self, progress: &PollProgress) -> Result<(), StoreError> {
        let context = self.context;
        let saved = update_connection(
            context,
            self.user,
            Some(&self.guard),
            DueUpdate::FromRecord,
            |connection, commit, now| {
                if connection
                    .poll_progress
                    .as_ref()
                    .map(|stored| stored.began_at)
                    != Some(progress.began_at)
                {
                    return false;
                }
                let outcome = PollOutcome {
                    began_at: progress.began_at,
                    ended_at: now,
                    pages: progress.pages,
                    calls: progress.calls,
                    problems: progress.problems.clone(),
                };
                self.add_daily_poll_records(connection, &outcome, commit);
                let next = self.next_slot(connection, now);
                let stamp = progress.stamp.unwrap_or_default();
                connection
                    .polling
                    .complete_read(progress.began_at, stamp, next);
                connection.poll_progress = None;
                connection.status = Status::Active;
                connection.last_failure = None;
                connection.problem = progress.problem(&connection.permissions);
                connection.last_poll = Some(outcome);
                // A demand for smaller result pages is temporary, so their size grows back.
                connection.result_page_size =
                    (connection.result_page_size * 2).min(MAX_RESULT_PAGE_SIZE);
                true
            },
        )
        .await?;
        if saved.is_some() {
            self.request_reads_of_unlisted(progress).await?;
        }
        Ok(())
    }

    /// Adds the record of a daily poll. If the poll is late, also adds a record `NotRun` for each
    /// earlier local day on which no poll ran, from the day of the daily slot on. Does nothing if
    /// the poll began earlier than its slot.
    fn add_daily_poll_records(
        &self,
        connection: &Connection,
        outcome: &PollOutcome,
        commit: &mut Commit,
    ) {
        let schedule = &self.context.daily_schedule;
        let Some(slot) = connection
            .polling
            .daily_slot
            .filter(|slot| *slot <= outcome.began_at.max(self.claimed_at))
        else {
            return;
        };
        let day = schedule.local_day(outcome.began_at.max(slot));
        let is_late = slot.until(outcome.began_at) > daily_poll::LATE_AFTER;
        let result = if is_late {
            daily_poll::DailyPollResult::RanLate
        } else {
            daily_poll::DailyPollResult::Ran
        };
        let ran = daily_poll::DailyPoll {
            day: day.clone(),
            ..daily_poll_record(self.context, self.user, result, slot, Some(outcome))
        };
        commit.records.push(daily_poll::daily_poll_write(&ran));
        if schedule.local_day(slot) != day && is_late {
            let between =
                schedule.local_days_between(slot, outcome.began_at, daily_poll::MAX_NOT_RUN_DAYS);
            for day in std::iter::once(schedule.local_day(slot)).chain(between) {
                let record = daily_poll::DailyPoll {
                    day,
                    ..daily_poll_record(
                        self.context,
                        self.user,
                        daily_poll::DailyPollResult::NotRun,
                        slot,
                        None,
                    )
                };
                commit.records.push(daily_poll::daily_poll_write(&record));
            }
        }
    }

    /// Requests a read of each Page that earlier polls listed and this one did not. The read tries the
    /// Page's own token, and ends the access of the person if the token fails.
    async fn request_reads_of_unlisted(&self, progress: &PollProgress) -> Result<(), StoreError> {
        let store = &*self.context.store;
        let prefix = token::page_prefix(self.user);
        let mut after = None;
        while let Some(stored) =
            load_chunk::<token::StoredToken>(store, RecordKind::PageToken, &prefix, &mut after)
                .await?
        {
            let unlisted = stored.into_iter().filter(|(_, stored)| {
                stored.value.gives_access() && stored.value.obtained_at < progress.began_at
            });
            let ids = unlisted.filter_map(|(id, _)| token::page_in_id(&id));
            let ids: Vec<PageId> = ids.collect();
            for batch in ids.chunks(COMMIT_BATCH) {
                tracing::info!(connection = %self.user, pages = batch.len(), "Pages are no longer listed; they are read with their own tokens");
                pages::request_reads(store, batch, self.context.clock.now()).await?;
            }
        }
        Ok(())
    }

    /// Commits a connection poll that failed. `blocked_until` is when calls are possible again if
    /// Facebook refused a call because of a rate limit. Fails if the store does not answer.
    pub(super) async fn save_failure(
        &self,
        error: &GraphError,
        blocked_until: Option<HostTime>,
    ) -> Result<(), StoreError> {
        tracing::warn!(connection = %self.user, error = %error, "the Pages of a connection could not be read");
        let needed_login = AtomicBool::new(false);
        let saved = update_connection(
            self.context,
            self.user,
            Some(&self.guard),
            DueUpdate::FromRecord,
            |connection, commit, now| {
                needed_login.store(connection.status == Status::NeedsLogin, Ordering::Relaxed);
                if connection
                    .poll_progress
                    .as_ref()
                    .map(|progress| progress.began_at)
                    != Some(self.began_at)
                {
                    // A login has ended this poll, and the failure does not concern the poll of
                    // that login.
                    return false;
                }
                if let Some(until) = blocked_until {
                    connection.polling.defer_until(until);
                    connection.problem = Some(rate_limits::blocked_message(until));
                    if error.is_block() {
                        connection.last_failure = Some(error.failure(now));
                    }
                    return true;
                }
                let had_cursor = connection
                    .poll_progress
                    .as_ref()
                    .is_some_and(|progress| progress.cursor.is_some());
                connection.last_failure = Some(error.failure(now));
                connection.status = match error.kind {
                    ErrorKind::Token { .. } => Status::NeedsLogin,
                    ErrorKind::Permission(_) => Status::NeedsPermission,
                    _ => connection.status,
                };
                connection.problem = Some(error.to_string());
                let began_at = connection
                    .poll_progress
                    .as_ref()
                    .map_or(now, |progress| progress.began_at);
                let is_unusable = connection.status != Status::Active;
                if is_unusable {
                    skip_daily_poll(self.context, connection, commit, began_at);
                }
                if !matches!(error.kind, ErrorKind::Transient(_)) {
                    // The cursor may be the cause, so the next poll starts from the beginning.
                    connection.poll_progress = None;
                }
                // Facebook may refuse an old cursor as an invalid parameter. A poll from the
                // beginning may succeed, so it is not delayed for a day.
                let retry_soon = GraphError::unexpected("the cursor was refused");
                let is_cursor_error =
                    had_cursor && matches!(error.kind, ErrorKind::Configuration(_));
                let cause = if is_cursor_error { &retry_soon } else { error };
                let at = now.plus(retry::delay_after(cause, connection.polling.failures));
                connection.polling.fail_attempt(at);
                true
            },
        )
        .await?;
        let is_refused = matches!(error.kind, ErrorKind::Token { .. });
        if saved.is_some() && is_refused && !needed_login.into_inner() {
            // The Pages show whether their own tokens still work.
            let now = self.context.clock.now();
            token_inspection::request(&*self.context.store, self.user, now).await?;
            request_reads(self.context, self.user, page::Status::NeedsLogin).await?;
        }
        Ok(())
    }
}
