//! Reading one Page with its own token: the verification after a webhook, a wish of an operator, the
//! second look at a value that is missing.

use std::time::Duration;

use common::daily_schedule::PAGE_SLOT_DELAY;
use common::graph::calls::PageReply;
use common::graph::error::GraphError;
use common::records::connection::{self, Connection};
use common::records::{excluded_field, missed_webhooks};
use common::retry;
use common::sealing::Token;
use common::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, RecordKey, StoreError, StoredPage, Versioned,
    load_page,
};
use model::field::FieldName;
use model::id::{PageId, Subject, UserId};
use model::page::{Page, Status};
use model::queue_name::QueueName;
use model::read::{self, PageRead, ReadKind};
use model::time::{FacebookTime, HostTime};
use serde_json::{Map, Value as Json};

use super::error::PollError;
use super::excluded_field::exclude_field;
use super::page_subscription::{count_findings, schedule_check_of_unannounced};
use super::page_tokens::{
    NoToken, TokenError, TriedTokens, is_token_specific, request_new_token, users_with_access,
};
use super::rate_limits;
use crate::context::Context;
use crate::corrupt_page::replace_corrupt_page;

/// Fields Graph may refuse in one read before we give up.
const MAX_REFUSED_FIELDS: usize = 30;

/// A Page as it was read.
struct PageValues {
    object: Map<String, Json>,
    stamp: FacebookTime,
    requested_fields: Vec<FieldName>,
}

/// What an attempt to read a Page came to.
enum Attempt {
    Read(PageValues),
    NoToken(NoToken),
    Deferred(HostTime),
    Failed(GraphError),
}

/// What was tried, and with whose token in the end.
struct AttemptResult {
    attempt: Attempt,
    connection: Option<(UserId, (RecordKey, u64))>,
    /// Whose logins cover the Page.
    connections: Vec<UserId>,
}

/// When an attempt began, and when the Page is read next if nothing happens before.
#[derive(Clone, Copy)]
struct Timing {
    began_at: HostTime,
    next_slot: HostTime,
}

pub(super) async fn poll(
    context: &Context,
    id: &PageId,
    claimed: HostTime,
) -> Result<(), StoreError> {
    let begun = context.clock.now();
    let Some(mut stored) = load(context, id).await? else {
        // Unknown or forgotten: the lease of the claim stands, and whoever revives it sets its time.
        return Ok(());
    };
    let not_due =
        matches!(&stored.value, StoredPage::Page(page) if !page.polling.is_due(begun, claimed));
    let tried = if not_due {
        None
    } else {
        Some(attempt_read(context, id).await?)
    };
    let with = tried.as_ref().and_then(|tried| tried.connection.as_ref());
    let timing = Timing {
        began_at: begun,
        next_slot: next_slot(context, id, with.map(|(user, _)| user)).await?,
    };
    loop {
        let Some(mut next) = outcome_commit(context, id, stored, timing, tried.as_ref()) else {
            return Ok(());
        };
        next.guards.extend(with.map(|(_, guard)| guard.clone()));
        schedule_check_of_unannounced(context, id, &next.records).await?;
        let written = next.records.clone();
        if context.store.commit(&[next]).await? == [CommitOutcome::Applied] {
            count_findings(context, &written);
            return Ok(());
        }
        if let Some((user, guard)) = with
            && connection::epoch_guard(&*context.store, user).await? != *guard
        {
            // Disconnected meanwhile: what was read with its token is not ours any more.
            return Ok(());
        }
        // A webhook or a walk came first: the same answer is merged into the newer Page.
        let Some(again) = load(context, id).await? else {
            return Ok(());
        };
        stored = again;
    }
}

/// The Page, unless it is unknown or forgotten.
async fn load(context: &Context, id: &PageId) -> Result<Option<Versioned<StoredPage>>, StoreError> {
    let stored = load_page(&*context.store, id).await?;
    let is_there = match &stored.value {
        StoredPage::Unknown => false,
        StoredPage::Page(page) => page.status != Status::Erased,
        StoredPage::Corrupt(_) => true,
    };
    Ok(is_there.then_some(stored))
}

/// Reads with the best token; with the next one where a token or its person is the trouble.
async fn attempt_read(context: &Context, id: &PageId) -> Result<AttemptResult, StoreError> {
    let covering = users_with_access(context, id).await?;
    let tried = |attempt, with| AttemptResult {
        attempt,
        connection: with,
        connections: covering,
    };
    let mut asked = TriedTokens::default();
    let (mut failed, mut closed) = (None, None);
    loop {
        let candidate = match asked.next(context, id).await {
            Ok(candidate) => candidate,
            Err(TokenError::Store(error)) => return Err(error),
            Err(TokenError::NoToken(why)) => {
                return Ok(match (closed, failed) {
                    (Some((until, with)), _) => tried(Attempt::Deferred(until), Some(with)),
                    (None, Some((error, with))) => tried(Attempt::Failed(error), Some(with)),
                    (None, None) => tried(Attempt::NoToken(why), None),
                });
            }
        };
        let whose = rate_limits::CallBudget {
            user: Some(&candidate.user),
            page: Some(id),
        };
        let with = (candidate.user.clone(), candidate.guard.clone());
        if let Some(until) = rate_limits::blocked_until(context, whose, QueueName::PollsNow).await?
        {
            // The limit may be this person's alone.
            if closed.as_ref().is_none_or(|(first, _)| until < *first) {
                closed = Some((until, with));
            }
            asked.add(candidate);
            continue;
        }
        let answer = match read_fields(context, id, &candidate.token).await {
            Ok(values) => Ok(values),
            Err(error) => Err(error.into_graph()?),
        };
        let throttled = rate_limits::record_reply(context, whose, answer.as_ref().err()).await?;
        let attempt = match (answer, throttled) {
            (_, Some(until)) => Attempt::Deferred(until),
            (Ok(answer), None) => Attempt::Read(answer),
            (Err(error), None) if is_token_specific(&error) => {
                request_new_token(context, id, &candidate, &error).await?;
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
async fn read_fields(
    context: &Context,
    id: &PageId,
    token: &Token,
) -> Result<PageValues, PollError> {
    let tracked: Vec<FieldName> = context.tracked_fields.iter().cloned().collect();
    for _ in 0..MAX_REFUSED_FIELDS {
        let left_out = excluded_field::excluded_names(&*context.store).await?;
        let asked = excluded_field::without_excluded(&tracked, &left_out);
        match context.graph.read_page(token, id, &asked).await {
            Err(GraphError::UnknownField(name))
                if tracked.iter().any(|field| field.as_str() == name) =>
            {
                exclude_field(context, &name).await?;
            }
            Ok(PageReply {
                object,
                stamp: Ok(stamp),
            }) => {
                return Ok(PageValues {
                    object,
                    stamp,
                    requested_fields: asked,
                });
            }
            Ok(PageReply {
                stamp: Err(why), ..
            }) => return Err(GraphError::UnexpectedReply(why.to_string()).into()),
            Err(error) => return Err(error.into()),
        }
    }
    let what = "Graph refuses one field after the other";
    Err(GraphError::UnexpectedReply(what.to_owned()).into())
}

/// When the Page is read next if nothing happens: after the walk that covers it, else in a slot of
/// its own.
async fn next_slot(
    context: &Context,
    id: &PageId,
    user: Option<&UserId>,
) -> Result<HostTime, StoreError> {
    let now = context.clock.now();
    if let Some(user) = user
        && let Some(Versioned {
            value: Connection {
                polling, status, ..
            },
            ..
        }) = connection::find(&*context.store, user).await?
        && status == connection::Status::Active
        && let Some(slot) = polling.daily_slot.filter(|slot| *slot > now)
    {
        return Ok(slot.plus(PAGE_SLOT_DELAY));
    }
    Ok(context
        .daily_schedule
        .next_slot(&Subject::Page(id.clone()), now))
}

/// The commit an attempt ends in; without an attempt only the due time is set right.
fn outcome_commit(
    context: &Context,
    id: &PageId,
    stored: Versioned<StoredPage>,
    timing: Timing,
    tried: Option<&AttemptResult>,
) -> Option<Commit> {
    let now = context.clock.now();
    let (mut page, letter) = match stored.value {
        StoredPage::Unknown => return None,
        StoredPage::Page(page) if page.status == Status::Erased => return None,
        StoredPage::Page(page) => (*page, None),
        StoredPage::Corrupt(corrupt) => {
            let (mut page, letter) = replace_corrupt_page(context, id, corrupt, now);
            page.connections.extend(
                tried
                    .iter()
                    .flat_map(|tried| tried.connections.iter().cloned()),
            );
            (page, Some(letter))
        }
    };
    let outcome = tried.map_or_else(read::ReadOutcome::default, |tried| {
        page.polling.begin_attempt(timing.began_at);
        // A walk that began later has read it, or a login came since: that this attempt came to
        // nothing is no news.
        let read_since = page.polling.last_success_began >= Some(timing.began_at);
        let covered_since = page.connections.len() > tried.connections.len();
        let is_late = !matches!(tried.attempt, Attempt::Read(_)) && (read_since || covered_since);
        if is_late {
            return read::ReadOutcome::default();
        }
        apply_attempt(context, id, &mut page, timing, &tried.attempt)
    });
    Some(Commit {
        due: vec![DueWrite {
            subject: Subject::Page(id.clone()),
            due: page.polling.due(),
        }],
        page: Some(PageWrite {
            id: id.clone(),
            expected: stored.version,
            page,
            changes: outcome.changes,
            received_at: now,
        }),
        records: letter
            .into_iter()
            .chain(missed_webhooks::finding_writes(
                &context.daily_schedule,
                id,
                &outcome.findings,
                now,
            ))
            .collect(),
        guards: Vec::new(),
    })
}

/// Takes the attempt into the Page.
fn apply_attempt(
    context: &Context,
    id: &PageId,
    page: &mut Page,
    timing: Timing,
    attempt: &Attempt,
) -> read::ReadOutcome {
    let now = context.clock.now();
    match attempt {
        Attempt::Read(PageValues {
            object,
            stamp,
            requested_fields: asked,
        }) => {
            let outcome = page.apply_read(&PageRead {
                requested_fields: asked,
                object,
                stamp: *stamp,
                kind: ReadKind::PageToken,
                now,
            });
            page.polling
                .complete_read(timing.began_at, *stamp, timing.next_slot);
            if outcome.needs_second_read {
                // Later than this one: or it would answer itself.
                page.polling
                    .request_read(now.max(timing.began_at.plus(Duration::from_millis(1))));
            }
            if page.status == Status::Degraded {
                tracing::warn!(page.id = %id, "three or more known fields are missing at once: their values are kept");
            }
            return outcome;
        }
        Attempt::NoToken(why) => {
            tracing::warn!(page.id = %id, why = %why, "a Page cannot be read");
            page.status = match why {
                NoToken::NoAccess => Status::NoToken,
                NoToken::UnknownKey => Status::NeedsKey,
            };
            page.polling.fail_attempt(now.plus(retry::ONE_DAY));
        }
        Attempt::Deferred(until) => page.polling.defer_until(*until),
        Attempt::Failed(error) => {
            tracing::warn!(page.id = %id, error = %error, "a Page could not be read");
            page.status = match error {
                GraphError::Token { .. } => Status::NeedsLogin,
                GraphError::Permission(_) => Status::NeedsPermission,
                GraphError::NotFound => Status::Unreachable,
                _ => page.status,
            };
            let at = now.plus(retry::delay_after(error, page.polling.failures));
            page.polling.fail_attempt(at);
        }
    }
    read::ReadOutcome::default()
}
