//! Reading one Page with its own token: the verification after a webhook, a wish of an operator, the
//! second look at a value that is missing.

use std::time::Duration;

use common::custody::Token;
use common::graph::calls::PageAnswer;
use common::graph::error::GraphError;
use common::records::connection::{self, Connection};
use common::records::{drift, quarantine};
use common::slots::AFTER_WALK;
use common::store::{Commit, DueWrite, Key, Outcome, PageWrite, StoreError, Stored, Versioned};
use model::field::FieldName;
use model::id::{PageId, Subject, UserId};
use model::lane::Lane;
use model::page::{Page, Status};
use model::read::{self, Read, Reader};
use model::time::Millis;
use serde_json::{Map, Value as Json};

use super::fields::leave_out;
use super::limits;
use super::pace::{A_DAY, is_due, resume};
use super::subscription::{count_drift, expect_announcement};
use super::tokens::{NoToken, TriedTokens, another_may_do, ask_anew, covering};
use crate::Parts;
use crate::fresh::start_again;

/// Fields Graph may refuse in one read before we give up.
const HEALINGS: usize = 30;

/// A Page as it was read.
struct Answer {
    object: Map<String, Json>,
    stamp: Millis,
    asked: Vec<FieldName>,
}

/// What an attempt to read a Page came to.
enum Attempt {
    Read(Answer),
    NoToken(NoToken),
    Deferred(Millis),
    Failed(GraphError),
}

/// What was tried, and with whose token in the end.
struct Tried {
    attempt: Attempt,
    with: Option<(UserId, (Key, u64))>,
    /// Whose logins cover the Page.
    covering: Vec<UserId>,
}

pub(super) async fn poll(parts: &Parts, id: &PageId, claimed: Millis) -> Result<(), StoreError> {
    let begun = parts.clock.now();
    let Some(mut held) = load(parts, id).await? else {
        // Unknown or forgotten: the lease of the claim stands, and whoever revives it sets its time.
        return Ok(());
    };
    let not_due =
        matches!(&held.value, Stored::Page(page) if !is_due(&page.polling, begun, claimed));
    let tried = if not_due {
        None
    } else {
        Some(attempt(parts, id).await?)
    };
    let with = tried.as_ref().and_then(|tried| tried.with.as_ref());
    let slot = next_slot(parts, id, with.map(|(user, _)| user)).await?;
    loop {
        let Some(mut next) = decide(parts, id, held, (begun, slot), tried.as_ref()) else {
            return Ok(());
        };
        next.guards.extend(with.map(|(_, guard)| guard.clone()));
        expect_announcement(parts, id, &next.records).await?;
        let written = next.records.clone();
        if parts.store.commit(&[next]).await? == [Outcome::Applied] {
            count_drift(parts, &written);
            return Ok(());
        }
        if let Some((user, guard)) = with
            && connection::guard(&*parts.store, user).await? != *guard
        {
            // Disconnected meanwhile: what was read with its token is not ours any more.
            return Ok(());
        }
        // A webhook or a walk came first: the same answer is merged into the newer Page.
        let Some(again) = load(parts, id).await? else {
            return Ok(());
        };
        held = again;
    }
}

/// The Page, unless it is unknown or forgotten.
async fn load(parts: &Parts, id: &PageId) -> Result<Option<Versioned<Stored>>, StoreError> {
    let held = parts.store.load(std::slice::from_ref(id)).await?.pop();
    Ok(held.filter(|held| match &held.value {
        Stored::Unknown => false,
        Stored::Page(page) => page.status != Status::Forgotten,
        Stored::Corrupt(_) => true,
    }))
}

/// Reads with the best token; with the next one where a token or its person is the trouble.
async fn attempt(parts: &Parts, id: &PageId) -> Result<Tried, StoreError> {
    let covering = covering(parts, id).await?;
    let tried = |attempt, with| Tried {
        attempt,
        with,
        covering,
    };
    let mut asked = TriedTokens::default();
    let (mut failed, mut closed) = (None, None);
    loop {
        let candidate = match asked.next(parts, id).await? {
            Ok(candidate) => candidate,
            Err(why) => {
                return Ok(match (closed, failed) {
                    (Some((until, with)), _) => tried(Attempt::Deferred(until), Some(with)),
                    (None, Some((error, with))) => tried(Attempt::Failed(error), Some(with)),
                    (None, None) => tried(Attempt::NoToken(why), None),
                });
            }
        };
        let whose = limits::Whose {
            user: Some(&candidate.user),
            page: Some(id),
        };
        let with = (candidate.user.clone(), candidate.guard.clone());
        if let Some(until) = limits::closed(parts, whose, Lane::PollsNow).await? {
            // The limit may be this person's alone.
            if closed.as_ref().is_none_or(|(first, _)| until < *first) {
                closed = Some((until, with));
            }
            asked.add(candidate);
            continue;
        }
        let answer = read(parts, id, &candidate.token).await?;
        let throttled = limits::note(parts, whose, answer.as_ref().err()).await?;
        let attempt = match (answer, throttled) {
            (_, Some(until)) => Attempt::Deferred(until),
            (Ok(answer), None) => Attempt::Read(answer),
            (Err(error), None) if another_may_do(&error) => {
                ask_anew(parts, id, &candidate, &error).await?;
                asked.add(candidate);
                failed.get_or_insert((error, with));
                continue;
            }
            (Err(error), None) => Attempt::Failed(error),
        };
        return Ok(tried(attempt, Some(with)));
    }
}

/// Asks for every tracked field that Graph has; a field it refuses is left out from now on.
async fn read(
    parts: &Parts,
    id: &PageId,
    token: &Token,
) -> Result<Result<Answer, GraphError>, StoreError> {
    let tracked: Vec<FieldName> = parts.tracked.iter().cloned().collect();
    for _ in 0..HEALINGS {
        let left_out = quarantine::names(&*parts.store).await?;
        let asked = quarantine::without(&tracked, &left_out);
        match parts.graph.page(token, id, &asked).await {
            Err(GraphError::UnknownField(name))
                if tracked.iter().any(|field| field.as_str() == name) =>
            {
                leave_out(parts, &name).await?;
            }
            Ok(PageAnswer {
                object,
                stamp: Ok(stamp),
            }) => {
                return Ok(Ok(Answer {
                    object,
                    stamp,
                    asked,
                }));
            }
            Ok(PageAnswer {
                stamp: Err(why), ..
            }) => return Ok(Err(GraphError::Odd(why.to_owned()))),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Err(GraphError::Odd(
        "Graph refuses one field after the other".to_owned(),
    )))
}

/// When the Page is read next if nothing happens: after the walk that covers it, else in a slot of
/// its own.
async fn next_slot(
    parts: &Parts,
    id: &PageId,
    user: Option<&UserId>,
) -> Result<Millis, StoreError> {
    let now = parts.clock.now();
    if let Some(user) = user
        && let Some(Versioned {
            value: Connection {
                polling, status, ..
            },
            ..
        }) = connection::find(&*parts.store, user).await?
        && status == connection::Status::Active
        && let Some(slot) = polling.slot.filter(|slot| *slot > now)
    {
        return Ok(slot.plus(AFTER_WALK));
    }
    Ok(parts.days.next_slot(&Subject::Page(id.clone()), now))
}

/// The commit an attempt ends in; without an attempt only the due time is set right.
fn decide(
    parts: &Parts,
    id: &PageId,
    held: Versioned<Stored>,
    (begun, slot): (Millis, Millis),
    tried: Option<&Tried>,
) -> Option<Commit> {
    let now = parts.clock.now();
    let (mut page, letter) = match held.value {
        Stored::Unknown => return None,
        Stored::Page(page) if page.status == Status::Forgotten => return None,
        Stored::Page(page) => (*page, None),
        Stored::Corrupt(corrupt) => {
            let (mut page, letter) = start_again(parts, id, corrupt, now);
            page.connections.extend(
                tried
                    .iter()
                    .flat_map(|tried| tried.covering.iter().cloned()),
            );
            (page, Some(letter))
        }
    };
    let outcome = tried.map_or_else(read::Outcome::default, |tried| {
        page.polling.start(begun);
        // A walk that began later has read it, or a login came since: that this attempt came to
        // nothing is no news.
        let read_since = page.polling.answered >= Some(begun);
        let covered_since = page.connections.len() > tried.covering.len();
        let is_late = !matches!(tried.attempt, Attempt::Read(_)) && (read_since || covered_since);
        if is_late {
            return read::Outcome::default();
        }
        take(parts, id, &mut page, (begun, slot), &tried.attempt)
    });
    Some(Commit {
        due: vec![DueWrite {
            subject: Subject::Page(id.clone()),
            due: page.polling.due(),
        }],
        page: Some(PageWrite {
            id: id.clone(),
            expected: held.version,
            page,
            changes: outcome.changes,
            at: now,
        }),
        records: letter
            .into_iter()
            .chain(drift::writes(&parts.days, id, &outcome.findings, now))
            .collect(),
        guards: Vec::new(),
    })
}

/// Takes the attempt into the Page.
fn take(
    parts: &Parts,
    id: &PageId,
    page: &mut Page,
    (begun, slot): (Millis, Millis),
    attempt: &Attempt,
) -> read::Outcome {
    let now = parts.clock.now();
    match attempt {
        Attempt::Read(Answer {
            object,
            stamp,
            asked,
        }) => {
            let outcome = page.read(&Read {
                asked,
                object,
                stamp: *stamp,
                reader: Reader::Own,
                now,
            });
            page.polling.succeed(begun, *stamp, slot);
            if outcome.wants_another {
                // Later than this one: or it would answer itself.
                page.polling
                    .ask(now.max(begun.plus(Duration::from_millis(1))));
            }
            if page.status == Status::Degraded {
                tracing::warn!(page.id = %id, "three or more known fields are missing at once: their values are kept");
            }
            return outcome;
        }
        Attempt::NoToken(why) => {
            tracing::warn!(page.id = %id, why = why.text(), "a Page cannot be read");
            page.status = match why {
                NoToken::None => Status::NoToken,
                NoToken::NoKey => Status::NeedsKey,
            };
            page.polling.fail(now.plus(A_DAY));
        }
        Attempt::Deferred(until) => page.polling.defer(*until),
        Attempt::Failed(error) => {
            tracing::warn!(page.id = %id, error = %error, "a Page could not be read");
            page.status = match error {
                GraphError::Token { .. } => Status::NeedsLogin,
                GraphError::Permission(_) => Status::NeedsPermission,
                GraphError::Missing => Status::Unreachable,
                _ => page.status,
            };
            let at = resume(error, page.polling.failures, now);
            page.polling.fail(at);
        }
    }
    read::Outcome::default()
}
