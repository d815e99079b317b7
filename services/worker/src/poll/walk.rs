//! Walking through the Pages of one person: discovery, tokens and the daily poll in one.
//!
//! Invariant: each result page is committed before the next is asked for, with the cursor that leads
//! on, so a walk that is cut off goes on where it was and repeats at most one result page.

use std::time::Duration;

use common::custody::Token;
use common::graph::calls::Accounts;
use common::graph::error::GraphError;
use common::records::connection::{Connection, Walk};
use common::records::quarantine;
use common::slots::AFTER_WALK;
use common::store::{Key, StoreError};
use model::field::FieldName;
use model::id::UserId;
use model::time::Millis;

use super::change::{Due, subject, update};
use super::fields::leave_out;
use super::listing::{Listing, keep};
use crate::Parts;

/// How long one job walks. What is left is due again at once.
const AT_MOST: Duration = Duration::from_secs(60);
/// A walk that takes more result pages than this is going in circles.
const MAX_CALLS: u64 = 10_000;
/// Asked for beside the tracked fields.
const EXTRAS: [&str; 3] = ["access_token", "tasks", "is_webhooks_subscribed"];

/// One job on a connection.
pub(super) struct Job<'a> {
    pub(super) parts: &'a Parts,
    pub(super) user: &'a UserId,
    pub(super) token: Token,
    pub(super) guard: (Key, u64),
    /// When the walk began.
    pub(super) begun: Millis,
}

/// Why a job stops before the walk is done.
pub(super) enum Stop {
    /// Facebook, until the next attempt.
    Error(GraphError),
    /// Our own time is up; the walk goes on in the next job.
    Pause,
    /// Somebody else has the connection now, or it is ended.
    Lost,
}

impl Job<'_> {
    /// Goes through the result pages. `Ok`: the walk is complete.
    pub(super) async fn walk(
        &self,
        mut connection: Connection,
    ) -> Result<Result<Walk, Stop>, StoreError> {
        let parts = self.parts;
        let until = tokio::time::Instant::now() + AT_MOST;
        let slot = self.slot_of_pages(&connection);
        let last = connection.last.as_ref().map(|last| last.begun);
        let renewed = last < Some(connection.connected);
        loop {
            // Read anew for each result page: a rotation may have made a new key meanwhile.
            let keys = match parts.keyring.keys() {
                Ok(keys) => keys,
                Err(error) => return Err(StoreError::Unexpected(error.to_string())),
            };
            let Some(walk) = connection.walk.clone() else {
                return Ok(Err(Stop::Lost));
            };
            if tokio::time::Instant::now() >= until || parts.lifecycle.is_stopping() {
                return Ok(Err(Stop::Pause));
            }
            let (accounts, asked, stamp) = match self.ask(&mut connection, &walk).await? {
                Ok(answer) => answer,
                Err(error) => return Ok(Err(Stop::Error(error))),
            };
            let circles = accounts.after.is_some() && accounts.after == walk.after;
            let found = accounts.accounts.len() as u64;
            let listing = Listing {
                user: self.user,
                begun: walk.begun,
                stamp,
                asked: &asked,
                renewed,
                consented: connection.consented,
                slot,
                keys: &keys,
                guard: &self.guard,
            };
            if !keep(parts, &listing, accounts.accounts).await? {
                return Ok(Err(Stop::Lost));
            }
            if circles || walk.calls >= MAX_CALLS {
                let why = "the list of Pages goes in circles".to_owned();
                return Ok(Err(Stop::Error(GraphError::Odd(why))));
            }
            let next = Walk {
                after: accounts.after.clone(),
                stamp: walk.stamp.or(Some(stamp)),
                pages: walk.pages + found,
                calls: walk.calls + 1,
                ..walk
            };
            if accounts.after.is_none() {
                return Ok(Ok(next));
            }
            match self.step(&next, connection.result_page).await? {
                Some(held) => connection = held,
                None => return Ok(Err(Stop::Lost)),
            }
        }
    }

    /// Commits how far the walk is.
    async fn step(
        &self,
        walk: &Walk,
        result_page: usize,
    ) -> Result<Option<Connection>, StoreError> {
        update(
            self.parts,
            self.user,
            Some(&self.guard),
            Due::Leave,
            |connection, _, _| {
                let ours = connection
                    .walk
                    .as_ref()
                    .map(|held| (held.begun, held.calls));
                connection.walk = Some(walk.clone());
                connection.result_page = result_page;
                // It goes on: what failed before is over.
                connection.polling.failures = 0;
                ours == Some((walk.begun, walk.calls - 1))
            },
        )
        .await
    }

    /// Asks for a result page: for less if Facebook wants it, without fields it does not have.
    async fn ask(
        &self,
        connection: &mut Connection,
        walk: &Walk,
    ) -> Result<Result<(Accounts, Vec<FieldName>, Millis), GraphError>, StoreError> {
        let parts = self.parts;
        let tracked: Vec<FieldName> = parts.tracked.iter().cloned().collect();
        for _ in 0..tracked.len() + EXTRAS.len() + 8 {
            let left_out = quarantine::names(&*parts.store).await?;
            let asked = quarantine::without(&tracked, &left_out);
            let mut extras = EXTRAS.to_vec();
            extras.retain(|extra| !left_out.iter().any(|name| name == extra));
            let (limit, after) = (connection.result_page, walk.after.as_deref());
            let answer = parts
                .graph
                .accounts(&self.token, &asked, &extras, limit, after)
                .await;
            match answer {
                Err(GraphError::TooMuch) if limit > 1 => {
                    tracing::info!(
                        limit,
                        "Facebook wants to be asked for less: half as many Pages at once"
                    );
                    connection.result_page = limit / 2;
                }
                Err(GraphError::UnknownField(name))
                    if !left_out.contains(&name) && name != "access_token" =>
                {
                    leave_out(parts, &name).await?;
                }
                Err(error) => return Ok(Err(error)),
                Ok(accounts) => {
                    let stamp = accounts.stamp;
                    return Ok(match stamp {
                        Ok(stamp) => Ok((accounts, asked, stamp)),
                        Err(why) => Err(GraphError::Odd(why.to_owned())),
                    });
                }
            }
        }
        Ok(Err(GraphError::Odd(
            "Graph refuses one field after the other".to_owned(),
        )))
    }

    /// When the Pages of this walk are read by themselves if a later walk misses them.
    fn slot_of_pages(&self, connection: &Connection) -> Millis {
        let now = self.parts.clock.now();
        self.next_slot(connection, now).plus(AFTER_WALK)
    }

    /// The slot after a walk: of the next local day after a daily one, else the one that stands.
    pub(super) fn next_slot(&self, connection: &Connection, now: Millis) -> Millis {
        let begun = connection.walk.as_ref().map_or(now, |walk| walk.begun);
        let days = &self.parts.days;
        match connection.polling.slot {
            Some(slot) if slot <= begun => days.slot_on_next_day(&subject(self.user), begun),
            Some(slot) => slot,
            None => days.next_slot(&subject(self.user), now),
        }
    }
}
