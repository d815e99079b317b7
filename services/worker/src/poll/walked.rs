//! What became of a walk: the next due time, the ledger of daily polls, Pages that were not listed,
//! failures.

use common::graph::error::GraphError;
use common::pages;
use common::records::connection::{Connection, RESULT_PAGE, Status, Walk, Walked};
use common::records::{chunk, run, token};
use common::store::{Commit, Kind, StoreError};
use model::id::UserId;
use model::time::Millis;

use super::change::{Due, subject, update};
use super::limits;
use super::pace::{A_DAY, resume};
use super::tokens::is_listed_for_another;
use super::walk::Job;
use crate::Parts;

/// A connection that cannot be used today: its day is skipped, it is looked at again tomorrow.
pub(super) async fn skip(
    parts: &Parts,
    user: &UserId,
    connected: Millis,
    (status, why): (Status, &str),
) -> Result<(), StoreError> {
    tracing::warn!(connection = %user, why, "a connection cannot be used");
    update(parts, user, None, Due::Settle, |connection, commit, now| {
        if connection.connected != connected {
            // A login came first: this was about the token before.
            return false;
        }
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

impl Job<'_> {
    pub(super) async fn finish(&self, walk: &Walk) -> Result<(), StoreError> {
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
        let Some(done) = done else { return Ok(()) };
        if walk.pages > 0 {
            self.look_for_the_unlisted(walk).await?;
        }
        self.look_after_token(done.inspected, done.expires).await
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

    /// Pages that earlier walks found and this one did not: their own tokens are asked, unless the walk
    /// of another person reads them.
    async fn look_for_the_unlisted(&self, walk: &Walk) -> Result<(), StoreError> {
        let store = &*self.parts.store;
        let prefix = token::prefix(self.user);
        let mut after = None;
        while let Some(held) =
            chunk::<token::Held>(store, Kind::PageToken, &prefix, &mut after).await?
        {
            let unlisted = held
                .into_iter()
                .filter(|(_, held)| held.value.obtained < walk.begun);
            for id in unlisted.filter_map(|(id, _)| token::page_of(&id)) {
                if is_listed_for_another(self.parts, &id, self.user).await? {
                    continue;
                }
                tracing::info!(page.id = %id, connection = %self.user, "a Page is not listed any more: its own token is asked");
                pages::ask(store, &id, self.parts.clock.now()).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn fail(
        &self,
        error: &GraphError,
        throttled: Option<Millis>,
    ) -> Result<(), StoreError> {
        tracing::warn!(connection = %self.user, error = %error, "the Pages of a connection could not be read");
        update(
            self.parts,
            self.user,
            Some(&self.guard),
            Due::Settle,
            |connection, extra, now| {
                if connection.walk.as_ref().map(|walk| walk.begun) != Some(self.begun) {
                    // A login came first: this was about the walk before.
                    return false;
                }
                if let Some(until) = throttled {
                    connection.polling.defer(until);
                    connection.problem = Some(limits::sentence(until));
                    return true;
                }
                let had_cursor = connection
                    .walk
                    .as_ref()
                    .is_some_and(|walk| walk.after.is_some());
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
                // Facebook may refuse an old cursor as a bad parameter: from the start it may work.
                let again = GraphError::Odd(String::new());
                let is_cursor = had_cursor && matches!(error, GraphError::Configuration(_));
                let why = if is_cursor { &again } else { error };
                let at = resume(why, connection.polling.failures, now);
                connection.polling.fail(at);
                true
            },
        )
        .await
        .map(drop)
    }
}
