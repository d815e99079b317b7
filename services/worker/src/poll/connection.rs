//! Walking through the Pages of one person: discovery, tokens and the daily poll in one.
//!
//! Invariant: each result page is committed before the next is asked for, with the cursor that leads
//! on, so a walk that is cut off goes on where it was and repeats at most one result page.

use std::time::Duration;

use common::custody::{CustodyError, Token};
use common::graph::calls::Accounts;
use common::graph::error::GraphError;
use common::records::connection::{self, Connection, RESULT_PAGE, Status, Walk, Walked};
use common::records::{all, commit, get, quarantine, run, token};
use common::slots::AFTER_WALK;
use common::store::{
    Commit, DueWrite, Key, Kind, Outcome, PageWrite, StoreError, Stored, Versioned,
};
use model::field::FieldName;
use model::id::{Subject, UserId};
use model::lane::Lane;
use model::page::Status as PageStatus;
use model::time::Millis;

use super::walk::{Listing, keep};
use super::{A_DAY, is_due, limits, page, resume};
use crate::Parts;

/// How long one job walks. What is left is due again at once.
const AT_MOST: Duration = Duration::from_secs(60);
/// A walk that takes more result pages than this is going in circles.
const MAX_CALLS: u64 = 10_000;
/// Asked for beside the tracked fields.
const EXTRAS: [&str; 3] = ["access_token", "tasks", "is_webhooks_subscribed"];

/// One job on a connection.
struct Job<'a> {
    parts: &'a Parts,
    user: &'a UserId,
    token: Token,
    guard: (Key, u64),
}

/// Why a job stops before the walk is done.
enum Stop {
    /// Facebook, until the next attempt.
    Error(GraphError),
    /// Our own time is up; the walk goes on in the next job.
    Pause,
    /// Somebody else has the connection now, or it is ended.
    Lost,
}

pub(super) async fn poll(parts: &Parts, user: &UserId, lane: Lane) -> Result<(), StoreError> {
    let Some(Versioned { version, mut value }) = connection::find(&*parts.store, user).await?
    else {
        commit(
            &*parts.store,
            super::forget_due(Subject::Connection(user.clone())),
        )
        .await?;
        return Ok(());
    };
    let now = parts.clock.now();
    if value.walk.is_none() && !is_due(&value.polling, now) {
        // Only the index is set right.
        commit(&*parts.store, connection::save(&value, version)).await?;
        return Ok(());
    }
    let guard = connection::guard(&*parts.store, user).await?;
    let whose = limits::Whose {
        user: Some(user),
        page: None,
    };
    if let Some(until) = limits::closed(parts, whose, lane).await? {
        value.polling.defer(until);
        commit(&*parts.store, connection::save(&value, version)).await?;
        return Ok(());
    }
    let token = match open(parts, user).await? {
        Ok(token) => token,
        Err((status, why)) => {
            return skip(parts, user, status, &why).await;
        }
    };
    let begun = match &value.walk {
        Some(walk) => walk.begun,
        None => now,
    };
    value.polling.start(begun);
    value.walk.get_or_insert(Walk {
        begun,
        after: None,
        stamp: None,
        pages: 0,
        calls: 0,
    });
    let mut start = connection::save(&value, version);
    // The claim's lease stands while we walk: another due time would be claimed again.
    start.due.clear();
    start.guards.push(guard.clone());
    if commit(&*parts.store, start).await? == Outcome::Stale {
        return Ok(());
    }
    let job = Job {
        parts,
        user,
        token,
        guard,
    };
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

/// A connection that cannot be used today: its day is skipped, it is looked at again tomorrow.
async fn skip(parts: &Parts, user: &UserId, status: Status, why: &str) -> Result<(), StoreError> {
    tracing::warn!(connection = %user, why, "a connection cannot be used");
    update(parts, user, None, Due::Settle, |connection, commit, now| {
        if let Some(slot) = connection.polling.slot.filter(|slot| *slot <= now) {
            let row = row(parts, user, run::Result::Skipped, slot, None);
            commit.records.push(run::write(&row));
            connection.polling.slot = Some(parts.days.slot_on_next_day(&subject(user), now));
        }
        connection.status = status;
        connection.problem = Some(why.to_owned());
        connection.polling.fail(now.plus(A_DAY));
        true
    })
    .await
    .map(drop)
}

fn subject(user: &UserId) -> Subject {
    Subject::Connection(user.clone())
}

fn row(
    parts: &Parts,
    user: &UserId,
    result: run::Result,
    slot: Millis,
    walked: Option<&Walked>,
) -> run::Run {
    run::Run {
        connection: user.clone(),
        day: parts.days.day(slot),
        result,
        slot,
        ended: walked.map(|walked| walked.ended),
        pages: walked.map_or(0, |walked| walked.pages),
        calls: walked.map_or(0, |walked| walked.calls),
    }
}

/// What a commit does to the due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The attempt is over: as the connection says.
    Settle,
    /// It goes on under the lease of its claim.
    Leave,
}

/// Changes a connection and commits, on whatever version it has now. `change` answers whether the
/// connection is still what the caller thinks it is. `Ok(None)`: it is not.
async fn update(
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

impl Job<'_> {
    /// Goes through the result pages. `Ok`: the walk is complete.
    async fn walk(&self, mut connection: Connection) -> Result<Result<Walk, Stop>, StoreError> {
        let parts = self.parts;
        let until = tokio::time::Instant::now() + AT_MOST;
        let slot = self.slot_of_pages(&connection);
        let keys = match parts.keyring.keys() {
            Ok(keys) => keys,
            Err(error) => return Err(StoreError::Unexpected(error.to_string())),
        };
        loop {
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
                    page::leave_out(parts, &name).await?;
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
    fn next_slot(&self, connection: &Connection, now: Millis) -> Millis {
        let begun = connection.walk.as_ref().map_or(now, |walk| walk.begun);
        let days = &self.parts.days;
        match connection.polling.slot {
            Some(slot) if slot <= begun => days.slot_on_next_day(&subject(self.user), begun),
            Some(slot) => slot,
            None => days.next_slot(&subject(self.user), now),
        }
    }

    async fn finish(&self, walk: &Walk) -> Result<(), StoreError> {
        let parts = self.parts;
        let done = update(parts, self.user, Some(&self.guard), Due::Settle, |connection, extra, now| {
            if connection.walk.as_ref().map(|held| held.begun) != Some(walk.begun) {
                return false;
            }
            let walked = Walked {
                begun: walk.begun,
                ended: now,
                pages: walk.pages,
                calls: walk.calls,
            };
            self.enter(connection, &walked, extra);
            let next = self.next_slot(connection, now);
            let stamp = walk.stamp.unwrap_or_default();
            connection.polling.succeed(walk.begun, stamp, next);
            connection.walk = None;
            connection.status = Status::Active;
            connection.problem = (walk.pages == 0).then(|| {
                "Facebook lists no Page: were they unticked, or is business_management missing?".to_owned()
            });
            connection.last = Some(walked);
            // Smaller result pages are for the hour, not for ever.
            connection.result_page = (connection.result_page * 2).min(RESULT_PAGE);
            true
        })
        .await?;
        if done.is_some() && walk.pages > 0 {
            self.look_for_the_unlisted(walk).await?;
        }
        Ok(())
    }

    /// Enters a daily walk into the ledger, and the days nobody was up for.
    fn enter(&self, connection: &Connection, walked: &Walked, extra: &mut Commit) {
        let days = &self.parts.days;
        let Some(slot) = connection.polling.slot.filter(|slot| *slot <= walked.begun) else {
            return;
        };
        let day = days.day(walked.begun);
        let late = slot.until(walked.begun) > run::LATE;
        let result = if late {
            run::Result::RanLate
        } else {
            run::Result::Ran
        };
        let ran = run::Run {
            day: day.clone(),
            ..row(self.parts, self.user, result, slot, Some(walked))
        };
        extra.records.push(run::write(&ran));
        if days.day(slot) != day && late {
            let between = days.days_between(slot, walked.begun, run::MISSED_DAYS);
            for missed in std::iter::once(days.day(slot)).chain(between) {
                let row = run::Run {
                    day: missed,
                    ..row(self.parts, self.user, run::Result::Missed, slot, None)
                };
                extra.records.push(run::write(&row));
            }
        }
    }

    /// Pages that earlier walks found and this one did not: their own tokens are asked.
    async fn look_for_the_unlisted(&self, walk: &Walk) -> Result<(), StoreError> {
        let store = &*self.parts.store;
        let held = all::<token::Held>(store, Kind::PageToken, &token::prefix(self.user)).await?;
        let unlisted = held
            .into_iter()
            .filter(|(_, held)| held.value.obtained < walk.begun);
        for id in unlisted.filter_map(|(id, _)| token::page_of(&id)) {
            let loaded = store.load(std::slice::from_ref(&id)).await?.pop();
            let Some(Versioned {
                version,
                value: Stored::Page(mut page),
            }) = loaded
            else {
                continue;
            };
            if page.status == PageStatus::Forgotten {
                continue;
            }
            tracing::info!(page.id = %id, connection = %self.user, "a Page is not listed any more: its own token is asked");
            let now = self.parts.clock.now();
            page.polling.ask(now);
            let next = Commit {
                due: vec![DueWrite {
                    subject: Subject::Page(id.clone()),
                    due: page.polling.due(),
                }],
                page: Some(PageWrite {
                    id,
                    expected: version,
                    page: *page,
                    changes: Vec::new(),
                    at: now,
                }),
                ..Commit::default()
            };
            // Stale: somebody else wrote the Page; tomorrow's walk looks again.
            commit(store, next).await?;
        }
        Ok(())
    }

    async fn fail(&self, error: &GraphError, throttled: Option<Millis>) -> Result<(), StoreError> {
        tracing::warn!(connection = %self.user, error = %error, "the Pages of a connection could not be read");
        update(
            self.parts,
            self.user,
            Some(&self.guard),
            Due::Settle,
            |connection, extra, now| {
                if let Some(until) = throttled {
                    connection.polling.defer(until);
                    return true;
                }
                connection.status = match error {
                    GraphError::Token { .. } => Status::NeedsLogin,
                    GraphError::Permission(_) => Status::NeedsPermission,
                    _ => connection.status,
                };
                connection.problem = Some(error.to_string());
                let begun = connection.walk.as_ref().map_or(now, |walk| walk.begun);
                let waits_a_day = connection.status != Status::Active;
                if let Some(slot) = connection
                    .polling
                    .slot
                    .filter(|slot| waits_a_day && *slot <= begun)
                {
                    let row = row(self.parts, self.user, run::Result::Skipped, slot, None);
                    extra.records.push(run::write(&row));
                    connection.polling.slot =
                        Some(self.parts.days.slot_on_next_day(&subject(self.user), begun));
                }
                if !matches!(error, GraphError::Transient(_)) {
                    // A cursor may be why; the next walk begins anew.
                    connection.walk = None;
                }
                let at = resume(error, connection.polling.failures, now);
                connection.polling.fail(at);
                true
            },
        )
        .await
        .map(drop)
    }
}
