//! The poll of one Page with its own token: a verification read after a notification, a read on
//! request, or a second read that confirms that a value is missing.
//!
//! Invariant: a read is merged into the stored version of the Page that its commit replaces, and it
//! is written only while the epoch of the connection whose token was used is unchanged.

use std::time::Duration;

use common::daily_schedule::PAGE_SLOT_DELAY;
use common::graph::error::{ErrorKind, GraphError};
use common::records::connection::{self, Connection};
use common::records::{load_if_decodable, missed_webhooks};
use common::retry;
use common::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, RecordGuard, StoreError, StoredPage, Versioned,
    load_page,
};
use model::id::{PageId, Subject, UserId};
use model::job::Claim;
use model::page::{Page, Status};
use model::queue_name::QueueName;
use model::read::{self, PageRead, ReadKind};
use model::time::HostTime;

use super::connection_update::request_poll_for_tokens;
use super::page_read::{PageValues, read_fields};
use super::page_subscription::{count_findings, schedule_check_if_unannounced};
use super::page_tokens::{
    LostAccess, NoToken, TokenError, TriedTokens, is_token_specific, people_without_token,
    request_new_token, unlisted_access, users_with_access,
};
use super::rate_limits;
use crate::context::Context;
use crate::corrupt_page::replace_corrupt_page;

/// The outcome of an attempt to read a Page.
enum AttemptOutcome {
    /// Graph returned the Page.
    Read(PageValues),
    /// There is no usable token.
    NoToken(NoToken),
    /// A rate limit forbids calls until this time. The error is set if Facebook has just refused a
    /// call.
    Deferred(HostTime, Option<GraphError>),
    /// Graph did not return the Page.
    Failed(GraphError),
}

/// An attempt, and the connections of the Page at the time of the attempt.
struct ReadAttempt {
    /// The outcome.
    outcome: AttemptOutcome,
    /// The person whose token led to the outcome, and the epoch guard of their connection.
    connection: Option<(UserId, RecordGuard)>,
    /// The people whose connection gave access to the Page.
    connections: Vec<UserId>,
    /// The people whose access has ended.
    lost: Vec<LostAccess>,
}

/// The times of a poll, on this host's clock.
#[derive(Clone, Copy)]
struct Timing {
    /// When the attempt began.
    began_at: HostTime,
    /// The later of the start of the attempt and the due time in the claim. The scheduler's clock
    /// may be ahead of this host's clock.
    claimed_at: HostTime,
    /// When the Page is read next if nothing requests an earlier read.
    next_slot: HostTime,
}

/// Reads a Page if it is due, and commits the result with the next due time. Fails if the store does
/// not answer; an error of Graph is recorded in the Page.
pub(super) async fn poll(context: &Context, id: &PageId, claim: &Claim) -> Result<(), StoreError> {
    let began_at = context.clock.now();
    let claimed_at = began_at.max(claim.due_at);
    let Some(mut stored) = load(context, id).await? else {
        // The Page is unknown or erased. A registration or a login sets its due time again.
        return Ok(());
    };
    let is_due = match &mut stored.value {
        StoredPage::Page(page) => {
            page.polling.lower_impossible_times(claimed_at);
            page.polling.is_due(began_at, claim.due_at)
        }
        StoredPage::Unknown | StoredPage::Corrupt(_) => true,
    };
    let mut attempted = if is_due {
        Some(attempt_read(context, id, claim.queue).await?)
    } else {
        None
    };
    let used_connection = attempted
        .as_ref()
        .and_then(|attempted| attempted.connection.clone());
    let used_connection = used_connection.as_ref();
    let timing = Timing {
        began_at,
        claimed_at,
        next_slot: next_slot(
            context,
            id,
            used_connection.map(|(user, _)| user),
            claimed_at,
        )
        .await?,
    };
    loop {
        let next = outcome_commit(context, id, stored, timing, attempted.as_ref()).await?;
        let Some(mut next) = next else {
            return Ok(());
        };
        next.guards
            .extend(used_connection.map(|(_, guard)| guard.clone()));
        schedule_check_if_unannounced(context, id, &next.records).await?;
        let written = next.records.clone();
        if context.store.commit(&[next]).await? == [CommitOutcome::Applied] {
            count_findings(context, &written);
            return Ok(());
        }
        if let Some((user, guard)) = used_connection
            && connection::epoch_guard(&*context.store, user).await? != *guard
        {
            // The connection has ended, and data that was read with its token must not be stored.
            return Ok(());
        }
        // A webhook or another poll changed the Page. The same reply is merged into the newer
        // version.
        let Some(newer) = load(context, id).await? else {
            return Ok(());
        };
        stored = newer;
        // A poll may have listed the Page again. Otherwise the next read ends the access.
        if let Some(attempted) = &mut attempted {
            attempted.lost.clear();
        }
    }
}

/// Loads a Page. Returns `None` if it is unknown or erased.
async fn load(context: &Context, id: &PageId) -> Result<Option<Versioned<StoredPage>>, StoreError> {
    let stored = load_page(&*context.store, id).await?;
    let is_registered = match &stored.value {
        StoredPage::Unknown => false,
        StoredPage::Page(page) => page.status != Status::Erased,
        StoredPage::Corrupt(_) => true,
    };
    Ok(is_registered.then_some(stored))
}

/// Reads a Page with the best token. Tries the next token if one is refused, or if the rate limit
/// of its person blocks calls. Fails if the store does not answer.
async fn attempt_read(
    context: &Context,
    id: &PageId,
    queue_name: QueueName,
) -> Result<ReadAttempt, StoreError> {
    let connections = users_with_access(context, id).await?;
    let mut tried_tokens = TriedTokens::default();
    let mut lost = Vec::new();
    if connections.len() > 1 {
        lost = try_unlisted_tokens(context, id, queue_name, &mut tried_tokens).await?;
    }
    let result = |outcome, used_connection, lost| ReadAttempt {
        outcome,
        connection: used_connection,
        connections,
        lost,
    };
    let (mut first_failure, mut earliest_block) = (None, None);
    loop {
        let candidate = match tried_tokens.next(context, id).await {
            Ok(candidate) => candidate,
            Err(TokenError::Store(error)) => return Err(error),
            Err(TokenError::NoToken(reason)) => {
                if lost.is_empty() {
                    lost = people_without_token(context, id).await?;
                }
                let (outcome, used) = last_outcome(earliest_block, first_failure, reason);
                return Ok(result(outcome, used, lost));
            }
        };
        let call_scope = rate_limits::CallScope {
            user: Some(&candidate.user),
            page: Some(id),
        };
        let used_connection = (candidate.user.clone(), candidate.guard.clone());
        if let Some(until) = rate_limits::blocked_until(context, call_scope, queue_name).await? {
            // The rate limit may concern this person only, so the next token is tried.
            let earliest = earliest_block.as_ref();
            if earliest.is_none_or(|(first, _)| until < *first) {
                earliest_block = Some((until, used_connection));
            }
            tried_tokens.add(candidate);
            continue;
        }
        let reply = match read_fields(context, id, &candidate.token).await {
            Ok(values) => Ok(values),
            Err(error) => Err(error.into_graph()?),
        };
        let blocked_until =
            rate_limits::record_reply(context, call_scope, reply.as_ref().err()).await?;
        let attempt = match (reply, blocked_until) {
            (reply, Some(until)) => AttemptOutcome::Deferred(until, reply.err()),
            (Ok(reply), None) => AttemptOutcome::Read(reply),
            (Err(error), None) if is_token_specific(&error) => {
                match candidate.lost_access(&error) {
                    Some(access) => lost.push(access),
                    None => drop(request_new_token(context, id, &candidate, &error).await?),
                }
                tried_tokens.add(candidate);
                first_failure.get_or_insert((error, used_connection));
                continue;
            }
            (Err(error), None) => {
                if matches!(error.kind, ErrorKind::Merged(_)) {
                    // The person's next poll lists the Page into which this one was merged.
                    request_poll_for_tokens(context, &candidate.user).await?;
                }
                AttemptOutcome::Failed(error)
            }
        };
        return Ok(result(attempt, Some(used_connection), lost));
    }
}

/// The person whose token was used, and the epoch guard of their connection.
type UsedConnection = (UserId, RecordGuard);

/// Returns the outcome of an attempt after which no token is left to try: the first end of a rate
/// limit, or the first failure, or that there is no token for `reason`.
fn last_outcome(
    earliest_block: Option<(HostTime, UsedConnection)>,
    first_failure: Option<(GraphError, UsedConnection)>,
    reason: NoToken,
) -> (AttemptOutcome, Option<UsedConnection>) {
    match (earliest_block, first_failure) {
        (Some((until, used)), _) => (AttemptOutcome::Deferred(until, None), Some(used)),
        (None, Some((error, used))) => (AttemptOutcome::Failed(error), Some(used)),
        (None, None) => (AttemptOutcome::NoToken(reason), None),
    }
}

/// Tries the tokens of people whose connection did not list a Page that others give access to, with a
/// read of its id alone. Returns the people who have lost access, and adds the refused tokens to
/// `tried_tokens`. Fails if the store does not answer.
async fn try_unlisted_tokens(
    context: &Context,
    id: &PageId,
    queue_name: QueueName,
    tried_tokens: &mut TriedTokens,
) -> Result<Vec<LostAccess>, StoreError> {
    let (mut lost, unlisted) = unlisted_access(context, id).await?;
    for candidate in unlisted {
        let call_scope = rate_limits::CallScope {
            user: Some(&candidate.user),
            page: Some(id),
        };
        let blocked = rate_limits::blocked_until(context, call_scope, queue_name).await?;
        if blocked.is_some() {
            continue;
        }
        let reply = context.graph.read_page(&candidate.token, id, &[]).await;
        rate_limits::record_reply(context, call_scope, reply.as_ref().err()).await?;
        let Err(error) = reply else { continue };
        if let Some(access) = candidate.lost_access(&error) {
            lost.push(access);
        } else if is_token_specific(&error) {
            request_new_token(context, id, &candidate, &error).await?;
        } else {
            continue;
        }
        tried_tokens.add(candidate);
    }
    Ok(lost)
}

/// Returns when the Page is read next if nothing requests an earlier read, later than `claimed_at`:
/// after the next daily poll of the connection of `user`, or in a slot of its own if no such poll is
/// scheduled.
async fn next_slot(
    context: &Context,
    id: &PageId,
    user: Option<&UserId>,
    claimed_at: HostTime,
) -> Result<HostTime, StoreError> {
    if let Some(user) = user
        && let Some(Versioned {
            value: Connection {
                polling, status, ..
            },
            ..
        }) = load_if_decodable(&*context.store, &connection::key(user)).await?
        && status == connection::Status::Active
        && let Some(slot) = polling.daily_slot.filter(|slot| *slot > claimed_at)
    {
        return Ok(slot.plus(PAGE_SLOT_DELAY));
    }
    Ok(context
        .daily_schedule
        .next_slot(&Subject::Page(id.clone()), claimed_at))
}

/// Returns the commit of an attempt, or `None` if the Page is unknown or erased. Without an
/// attempt, only the due index is corrected.
async fn outcome_commit(
    context: &Context,
    id: &PageId,
    stored: Versioned<StoredPage>,
    timing: Timing,
    attempted: Option<&ReadAttempt>,
) -> Result<Option<Commit>, StoreError> {
    let now = context.clock.now();
    let (mut page, mut records) = match stored.value {
        StoredPage::Unknown => return Ok(None),
        StoredPage::Page(page) if page.status == Status::Erased => return Ok(None),
        StoredPage::Page(page) => (*page, Vec::new()),
        StoredPage::Corrupt(corrupt) => {
            let (mut page, dead_letter) = replace_corrupt_page(context, id, corrupt, now).await?;
            page.connections.extend(
                attempted
                    .iter()
                    .flat_map(|attempted| attempted.connections.iter().cloned()),
            );
            (page, dead_letter)
        }
    };
    // The stored state may be newer than the start of the attempt.
    let lower_to = now.max(timing.claimed_at);
    page.polling.lower_impossible_times(lower_to);
    let read_outcome = attempted.map_or_else(read::ReadOutcome::default, |attempted| {
        page.polling.begin_attempt(timing.began_at);
        // If another poll has read the Page meanwhile, or another person has connected it, the
        // failure of this attempt is out of date.
        let read_since = page.polling.last_success_began >= Some(timing.began_at);
        let access_added_since = page.connections.len() > attempted.connections.len();
        let is_outdated = !matches!(attempted.outcome, AttemptOutcome::Read(_))
            && (read_since || access_added_since);
        if is_outdated {
            return read::ReadOutcome::default();
        }
        apply_attempt(context, id, &mut page, timing, &attempted.outcome)
    });
    records.extend(missed_webhooks::finding_writes(
        &context.daily_schedule,
        id,
        &read_outcome.findings,
        now,
    ));
    let lost = attempted.map_or(&[][..], |attempted| &attempted.lost);
    for access in lost {
        tracing::info!(page.id = %id, connection = %access.user, "a person no longer has access to a Page");
        records.push(access.remove_from(id, &mut page));
    }
    if !lost.is_empty() && page.connections.is_empty() {
        page.stop_reads();
    }
    Ok(Some(Commit {
        due: vec![DueWrite {
            subject: Subject::Page(id.clone()),
            due: page.polling.due(),
        }],
        page: Some(PageWrite {
            id: id.clone(),
            expected: stored.version,
            page,
            changes: read_outcome.changes,
            received_at: now,
        }),
        records,
        guards: lost.iter().map(|access| access.guard.clone()).collect(),
    }))
}

/// Applies an attempt to the Page. Returns the outcome of the read, which is empty if the attempt
/// did not read the Page.
fn apply_attempt(
    context: &Context,
    id: &PageId,
    page: &mut Page,
    timing: Timing,
    attempt: &AttemptOutcome,
) -> read::ReadOutcome {
    let now = context.clock.now();
    match attempt {
        AttemptOutcome::Read(PageValues {
            object,
            stamp,
            requested_fields,
        }) => {
            let outcome = page.apply_read(&PageRead {
                requested_fields,
                object,
                stamp: *stamp,
                kind: ReadKind::SinglePage,
                now,
            });
            page.remove_untracked(&context.tracked_fields);
            page.polling
                .complete_read(timing.began_at, *stamp, timing.next_slot);
            if outcome.needs_second_read {
                // The request is later than the start of this read, because this read would
                // otherwise answer it.
                page.polling
                    .request_read(now.max(timing.began_at.plus(Duration::from_millis(1))));
            }
            if page.status == Status::Degraded {
                tracing::warn!(page.id = %id, "three or more fields with a stored value are missing at once; their values are retained");
            }
            return outcome;
        }
        AttemptOutcome::NoToken(reason) => {
            tracing::warn!(page.id = %id, error = %reason, "no token can be used to read a Page");
            page.status = match reason {
                NoToken::NoAccess => Status::NoToken,
                NoToken::UnknownKey => Status::NeedsKey,
            };
            // Without a connection the status says everything.
            let has_connection = !page.connections.is_empty();
            page.last_failure = has_connection.then(|| reason.failure(now));
            page.polling.fail_attempt(now.plus(retry::ONE_DAY));
        }
        AttemptOutcome::Deferred(until, refusal) => {
            if let Some(error) = refusal.as_ref().filter(|error| error.is_block()) {
                page.last_failure = Some(error.failure(now));
            }
            page.polling.defer_until(*until);
        }
        AttemptOutcome::Failed(error) => {
            tracing::warn!(page.id = %id, error = %error, "a Page could not be read");
            page.last_failure = Some(error.failure(now));
            page.status = match error.kind {
                ErrorKind::Token { .. } => Status::NeedsLogin,
                ErrorKind::Permission(_) => Status::NeedsPermission,
                ErrorKind::NotFound | ErrorKind::Merged(_) => Status::Unreachable,
                _ => page.status,
            };
            let at = now.plus(retry::delay_after(error, page.polling.failures));
            page.polling.fail_attempt(at);
        }
    }
    read::ReadOutcome::default()
}
