//! Reads the result pages of a connection poll, from all lists of the Pages that a person manages. The
//! poll finds Pages and obtains their tokens, and it is their daily poll.
//!
//! Invariant: each result page is committed, and then its cursor, before the next one is requested.
//! A poll that was interrupted continues at the cursor and repeats at most one result page.

use std::time::Duration;

use common::daily_schedule::PAGE_SLOT_DELAY;
use common::graph::calls::ResultPage;
use common::graph::error::{ErrorKind, GraphError};
use common::graph::reply::ReplyTimeError;
use common::records::connection::{Connection, PageSource, PollProgress};
use common::records::excluded_field;
use common::store::StoreError;
use model::field::FieldName;
use model::time::{FacebookTime, HostTime};

use super::connection_update::{DueUpdate, connection_subject, update_connection};
use super::error::PollError;
use super::excluded_field::exclude_refused;
use super::page_lists::{ends_job, without_source};
use super::poll_job::{ConnectionPoll, PollInterruption};
use super::result_page::{ResultPageContext, commit_result_page, without_listed};

/// How long one job reads result pages. If the list is not complete then, the connection is due
/// again at once.
const MAX_JOB_DURATION: Duration = Duration::from_secs(60);
/// A list with more result pages than this is treated as endless.
const MAX_CALLS: u64 = 10_000;
/// The fields that are requested in addition to the tracked ones.
const EXTRA_FIELDS: [&str; 2] = ["access_token", "is_webhooks_subscribed"];

/// One result page as Graph returned it.
struct ResultPageReply {
    /// The Pages, and the cursor of the next result page.
    list: ResultPage,
    /// The fields that were requested.
    requested_fields: Vec<FieldName>,
    /// A lower bound of the instant at which Graph answered.
    stamp: FacebookTime,
}

impl ConnectionPoll<'_> {
    /// Reads and commits the result pages of all lists. Returns the progress of the poll when they are
    /// complete.
    pub(super) async fn read_result_pages(
        &self,
        mut connection: Connection,
    ) -> Result<PollProgress, PollInterruption> {
        let context = self.context;
        let deadline = tokio::time::Instant::now() + MAX_JOB_DURATION;
        loop {
            let Some(progress) = connection.poll_progress.clone() else {
                return Err(PollInterruption::Superseded);
            };
            if tokio::time::Instant::now() >= deadline || context.lifecycle.is_stopping() {
                return Err(PollInterruption::TimeIsUp);
            }
            let is_accounts = progress.source == PageSource::Accounts;
            let reply = self.request_result_page(&mut connection, &progress).await;
            let (mut next, ends_list) = match reply {
                Ok(reply) => {
                    let listed = progress.clone();
                    match self.commit_reply(&connection, progress, reply).await {
                        Err(PollInterruption::Graph(error)) if !is_accounts => {
                            (without_source(listed, &error), true)
                        }
                        committed => committed?,
                    }
                }
                Err(PollError::Graph(error))
                    if !is_accounts && !ends_job(&error, connection.polling.failures) =>
                {
                    (without_source(progress, &error), true)
                }
                Err(error) => return Err(error.into()),
            };
            if ends_list && is_accounts {
                self.find_further_lists(&mut connection, &mut next).await?;
            }
            if ends_list && !self.begin_next_list(&mut next).await? {
                return Ok(next);
            }
            match self
                .save_progress(&next, connection.result_page_size)
                .await?
            {
                Some(stored) => connection = stored,
                None => return Err(PollInterruption::Superseded),
            }
        }
    }

    /// Commits the Pages of a result page. Returns the progress after it, and whether it was the last
    /// one of its list.
    async fn commit_reply(
        &self,
        connection: &Connection,
        progress: PollProgress,
        reply: ResultPageReply,
    ) -> Result<(PollProgress, bool), PollInterruption> {
        let context = self.context;
        // The keys are loaded for each result page: a key rotation may have added one meanwhile.
        let keys = context.keyring.keys();
        let keys = keys.map_err(|error| StoreError::Unexpected(error.to_string()))?;
        let ResultPageReply {
            list,
            requested_fields,
            stamp,
        } = reply;
        let last = connection.last_poll.as_ref().map(|last| last.began_at);
        let result_page = ResultPageContext {
            user: self.user,
            client: connection.client.as_deref(),
            poll_began_at: progress.began_at,
            stamp,
            requested_fields: &requested_fields,
            logged_in_since_last_poll: last < Some(connection.connected_at),
            consented_at: connection.consented_at,
            page_slot: self.page_slot(connection),
            keys: &keys,
            guard: &self.guard,
        };
        let repeats_cursor = list.next_cursor.is_some() && list.next_cursor == progress.cursor;
        let (pages, new) = if progress.source == PageSource::Accounts {
            let count = list.pages.len() as u64;
            (list.pages, count)
        } else {
            without_listed(context, self.user, progress.began_at, list.pages).await?
        };
        if !commit_result_page(context, &result_page, pages).await? {
            return Err(PollInterruption::Superseded);
        }
        if repeats_cursor || progress.calls >= MAX_CALLS {
            return Err(GraphError::unexpected("the list of Pages does not end").into());
        }
        let ends_list = list.next_cursor.is_none();
        let next = PollProgress {
            cursor: list.next_cursor,
            stamp: progress.stamp.or(Some(stamp)),
            pages: progress.pages + new,
            calls: progress.calls + 1,
            ..progress
        };
        Ok((next, ends_list))
    }

    /// Commits the progress of the poll. Returns `None` if the connection has ended or another job
    /// has written its progress.
    async fn save_progress(
        &self,
        progress: &PollProgress,
        result_page_size: usize,
    ) -> Result<Option<Connection>, StoreError> {
        update_connection(
            self.context,
            self.user,
            Some(&self.guard),
            DueUpdate::Unchanged,
            |connection, _, _| {
                let stored_progress = connection
                    .poll_progress
                    .as_ref()
                    .map(|stored| (stored.began_at, stored.calls));
                connection.poll_progress = Some(progress.clone());
                connection.result_page_size = result_page_size;
                // The poll makes progress, so earlier failures no longer count.
                connection.polling.failures = 0;
                stored_progress == Some((progress.began_at, progress.calls - 1))
            },
        )
        .await
    }

    /// Requests a result page. If Facebook asks for less data, the size of result pages is halved.
    /// If Graph refuses a field, the field is excluded. The request is then repeated.
    async fn request_result_page(
        &self,
        connection: &mut Connection,
        progress: &PollProgress,
    ) -> Result<ResultPageReply, PollError> {
        let context = self.context;
        let tracked: Vec<FieldName> = context.tracked_fields.iter().cloned().collect();
        for _ in 0..tracked.len() + EXTRA_FIELDS.len() + 8 {
            let excluded = excluded_field::excluded_names(&*context.store).await?;
            let requested_fields = excluded_field::without_excluded(&tracked, &excluded);
            let mut extras = EXTRA_FIELDS.to_vec();
            extras.retain(|extra| !excluded.iter().any(|name| name == extra));
            let (limit, after) = (connection.result_page_size, progress.cursor.as_deref());
            let reply = context
                .graph
                .read_result_page(
                    &self.token,
                    &progress.source,
                    &requested_fields,
                    &extras,
                    limit,
                    after,
                )
                .await;
            match reply {
                Err(error) if error.kind == ErrorKind::TooMuchData && limit > 1 => {
                    tracing::info!(
                        limit,
                        "Facebook asks for less data in one reply: the size of result pages is halved"
                    );
                    connection.result_page_size = limit / 2;
                }
                Err(GraphError {
                    kind: ErrorKind::RefusedField(named),
                    ..
                }) => {
                    let fields = requested_fields.iter().map(ToString::to_string);
                    let extras = extras.into_iter().filter(|extra| *extra != "access_token");
                    let names = fields.chain(extras.map(ToOwned::to_owned)).collect();
                    let attempt = async |names: Vec<String>| {
                        let names: Vec<&str> = names.iter().map(String::as_str).collect();
                        let (graph, source) = (&context.graph, &progress.source);
                        let read =
                            graph.read_result_page(&self.token, source, &[], &names, 1, after);
                        read.await.map(drop)
                    };
                    exclude_refused(context, named.as_deref(), names, attempt).await?;
                }
                Err(error) => return Err(error.into()),
                Ok(list) => {
                    let unstamped =
                        |reason: ReplyTimeError| GraphError::unexpected(reason.to_string());
                    let stamp = list.stamp.map_err(unstamped)?;
                    return Ok(ResultPageReply {
                        list,
                        requested_fields,
                        stamp,
                    });
                }
            }
        }
        let reason = "Graph refuses too many fields";
        Err(GraphError::unexpected(reason).into())
    }

    /// Returns when each Page of this poll is read individually if no later poll lists it.
    fn page_slot(&self, connection: &Connection) -> HostTime {
        let now = self.context.clock.now();
        self.next_slot(connection, now).plus(PAGE_SLOT_DELAY)
    }

    /// Returns the daily slot after this poll: the slot of the next local day if the poll began or
    /// was claimed at or after the present slot, otherwise the present slot.
    pub(super) fn next_slot(&self, connection: &Connection, now: HostTime) -> HostTime {
        let began_at = connection
            .poll_progress
            .as_ref()
            .map_or(now, |progress| progress.began_at)
            .max(self.claimed_at);
        let schedule = &self.context.daily_schedule;
        match connection.polling.daily_slot {
            Some(slot) if slot <= began_at => {
                schedule.slot_on_next_day(&connection_subject(self.user), began_at)
            }
            Some(slot) => slot,
            None => schedule.next_slot(&connection_subject(self.user), now),
        }
    }
}
