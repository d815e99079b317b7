//! Walking through the Pages of one person: discovery, tokens and the daily poll in one.
//!
//! Invariant: each result page is committed before the next is asked for, with the cursor that leads
//! on, so a walk that is cut off goes on where it was and repeats at most one result page.

use std::time::Duration;

use common::daily_schedule::PAGE_SLOT_DELAY;
use common::graph::calls::PageList;
use common::graph::error::GraphError;
use common::graph::reply::ReplyTimeError;
use common::records::connection::{Connection, PollProgress};
use common::records::excluded_field;
use common::sealing::Token;
use common::store::{RecordKey, StoreError};
use model::field::FieldName;
use model::id::UserId;
use model::time::{FacebookTime, HostTime};

use super::connection_update::{Due, subject, update};
use super::error::PollError;
use super::excluded_field::exclude_field;
use super::result_page::{ResultPage, commit_result_page};
use crate::context::Context;

/// How long one job walks. What is left is due again at once.
const MAX_JOB_DURATION: Duration = Duration::from_secs(60);
/// A walk that takes more result pages than this is going in circles.
const MAX_CALLS: u64 = 10_000;
/// Asked for beside the tracked fields.
const EXTRA_FIELDS: [&str; 3] = ["access_token", "tasks", "is_webhooks_subscribed"];

/// One job on a connection.
pub(super) struct ConnectionPoll<'a> {
    pub(super) context: &'a Context,
    pub(super) user: &'a UserId,
    pub(super) token: Token,
    pub(super) guard: (RecordKey, u64),
    /// When the walk began.
    pub(super) began_at: HostTime,
}

/// Why a job stops before the walk is done.
pub(super) enum PollInterruption {
    /// Graph did not return what was requested.
    Graph(GraphError),
    /// The store did not answer, or its answer cannot be used.
    Store(StoreError),
    /// The job reached [`MAX_JOB_DURATION`], or the process is stopping. The next job continues.
    TimeIsUp,
    /// The connection ended, or another job writes it.
    Superseded,
}

impl From<PollError> for PollInterruption {
    fn from(error: PollError) -> Self {
        match error {
            PollError::Graph(error) => Self::Graph(error),
            PollError::Store(error) => Self::Store(error),
        }
    }
}

impl From<GraphError> for PollInterruption {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl From<StoreError> for PollInterruption {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// One result page as Graph returned it.
struct ResultPageReply {
    list: PageList,
    requested_fields: Vec<FieldName>,
    /// A lower bound of the instant at which Graph answered.
    stamp: FacebookTime,
}

impl ConnectionPoll<'_> {
    /// Goes through the result pages. `Ok`: the walk is complete.
    pub(super) async fn read_result_pages(
        &self,
        mut connection: Connection,
    ) -> Result<PollProgress, PollInterruption> {
        let context = self.context;
        let until = tokio::time::Instant::now() + MAX_JOB_DURATION;
        let slot = self.slot_of_pages(&connection);
        let last = connection.last_poll.as_ref().map(|last| last.began_at);
        let renewed = last < Some(connection.connected_at);
        loop {
            // Read anew for each result page: a rotation may have made a new key meanwhile.
            let keys = match context.keyring.keys() {
                Ok(keys) => keys,
                Err(error) => return Err(StoreError::Unexpected(error.to_string()).into()),
            };
            let Some(walk) = connection.poll_progress.clone() else {
                return Err(PollInterruption::Superseded);
            };
            if tokio::time::Instant::now() >= until || context.lifecycle.is_stopping() {
                return Err(PollInterruption::TimeIsUp);
            }
            let reply = self.request_result_page(&mut connection, &walk).await?;
            let ResultPageReply {
                list,
                requested_fields,
                stamp,
            } = reply;
            let circles = list.next_cursor.is_some() && list.next_cursor == walk.cursor;
            let found = list.pages.len() as u64;
            let listing = ResultPage {
                user: self.user,
                poll_began_at: walk.began_at,
                stamp,
                requested_fields: &requested_fields,
                logged_in_since: renewed,
                consented_at: connection.consented_at,
                page_slot: slot,
                keys: &keys,
                guard: &self.guard,
            };
            if !commit_result_page(context, &listing, list.pages).await? {
                return Err(PollInterruption::Superseded);
            }
            if circles || walk.calls >= MAX_CALLS {
                let why = "the list of Pages goes in circles".to_owned();
                return Err(GraphError::UnexpectedReply(why).into());
            }
            let next = PollProgress {
                cursor: list.next_cursor.clone(),
                stamp: walk.stamp.or(Some(stamp)),
                pages: walk.pages + found,
                calls: walk.calls + 1,
                ..walk
            };
            if list.next_cursor.is_none() {
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

    /// Commits how far the walk is.
    async fn save_progress(
        &self,
        walk: &PollProgress,
        result_page: usize,
    ) -> Result<Option<Connection>, StoreError> {
        update(
            self.context,
            self.user,
            Some(&self.guard),
            Due::Keep,
            |connection, _, _| {
                let ours = connection
                    .poll_progress
                    .as_ref()
                    .map(|stored| (stored.began_at, stored.calls));
                connection.poll_progress = Some(walk.clone());
                connection.result_page_size = result_page;
                // It goes on: what failed before is over.
                connection.polling.failures = 0;
                ours == Some((walk.began_at, walk.calls - 1))
            },
        )
        .await
    }

    /// Asks for a result page: for less if Facebook wants it, without fields it does not have.
    async fn request_result_page(
        &self,
        connection: &mut Connection,
        walk: &PollProgress,
    ) -> Result<ResultPageReply, PollError> {
        let context = self.context;
        let tracked: Vec<FieldName> = context.tracked_fields.iter().cloned().collect();
        for _ in 0..tracked.len() + EXTRA_FIELDS.len() + 8 {
            let left_out = excluded_field::excluded_names(&*context.store).await?;
            let asked = excluded_field::without_excluded(&tracked, &left_out);
            let mut extras = EXTRA_FIELDS.to_vec();
            extras.retain(|extra| !left_out.iter().any(|name| name == extra));
            let (limit, after) = (connection.result_page_size, walk.cursor.as_deref());
            let answer = context
                .graph
                .list_pages(&self.token, &asked, &extras, limit, after)
                .await;
            match answer {
                Err(GraphError::TooMuchData) if limit > 1 => {
                    tracing::info!(
                        limit,
                        "Facebook wants to be asked for less: half as many Pages at once"
                    );
                    connection.result_page_size = limit / 2;
                }
                Err(GraphError::UnknownField(name))
                    if !left_out.contains(&name) && name != "access_token" =>
                {
                    exclude_field(context, &name).await?;
                }
                Err(error) => return Err(error.into()),
                Ok(list) => {
                    let unknown =
                        |why: ReplyTimeError| GraphError::UnexpectedReply(why.to_string());
                    let stamp = list.stamp.map_err(unknown)?;
                    return Ok(ResultPageReply {
                        list,
                        requested_fields: asked,
                        stamp,
                    });
                }
            }
        }
        let what = "Graph refuses one field after the other";
        Err(GraphError::UnexpectedReply(what.to_owned()).into())
    }

    /// When the Pages of this walk are read by themselves if a later walk misses them.
    fn slot_of_pages(&self, connection: &Connection) -> HostTime {
        let now = self.context.clock.now();
        self.next_slot(connection, now).plus(PAGE_SLOT_DELAY)
    }

    /// The slot after a walk: of the next local day after a daily one, else the one that stands.
    pub(super) fn next_slot(&self, connection: &Connection, now: HostTime) -> HostTime {
        let begun = connection
            .poll_progress
            .as_ref()
            .map_or(now, |walk| walk.began_at);
        let days = &self.context.daily_schedule;
        match connection.polling.daily_slot {
            Some(slot) if slot <= begun => days.slot_on_next_day(&subject(self.user), begun),
            Some(slot) => slot,
            None => days.next_slot(&subject(self.user), now),
        }
    }
}
