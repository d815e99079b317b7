//! The inspection of a person's token: every hour, and at once after Facebook has refused a token of
//! the connection as invalid. A token that expires soon is exchanged.
//!
//! Invariants: a new token is stored only after Facebook has confirmed that it is valid and belongs
//! to the same person. A connection whose token Facebook calls invalid needs a login, and its Pages are
//! read at once, so that their status says whether their own tokens still work.
//!
//! Sources: "Get Long-Lived Tokens": a valid long-lived token can be exchanged once a day for one that
//! expires later; Facebook may return a token with the same expiry. "Access Tokens": Facebook does not
//! notify an app when a token becomes invalid.

use std::collections::BTreeSet;
use std::time::Duration;

use common::graph::calls::{IssuedToken, TokenInfo};
use common::graph::error::GraphError;
use common::records::connection::{self, Connection, Status};
use common::records::token_inspection::{self, TokenInspection};
use common::records::{commit_one, expiry, load_record, token};
use common::retry;
use common::sealing::Token;
use common::store::{Commit, DueWrite, RecordGuard, RecordWrite, StoreError, Versioned};
use model::id::{Subject, UserId};
use model::job::Claim;
use model::page;
use model::queue_name::QueueName;
use model::time::HostTime;

use super::commits::{remove_due_commit, save_outcome};
use super::connection_update::{DueUpdate, request_poll, request_reads, update_connection};
use super::rate_limits;
use super::unusable::{UnusableConnection, mark_unusable};
use super::user_token::{UserTokenError, open_user_token};
use crate::context::Context;

/// The time between two inspections of a token.
pub(super) const INSPECTION_INTERVAL: Duration = Duration::from_secs(3600);
/// The minimum time between two exchanges of a token.
const EXCHANGE_INTERVAL: Duration = Duration::from_secs(20 * 3600);
/// A token that expires within this time is exchanged.
const RENEW_BEFORE_EXPIRY: Duration = Duration::from_secs(45 * 24 * 3600);

/// The outcome of an attempt to inspect a token.
enum Outcome {
    /// Facebook answered, or the token cannot be opened. The token was exchanged if `exchanged` is set.
    Inspected { exchanged: bool },
    /// A rate limit forbids calls until this time.
    Deferred(HostTime),
    /// Graph did not return the properties of the token.
    Failed(GraphError),
}

/// Inspects a token if that is due. Fails if the store does not answer.
pub(super) async fn poll(
    context: &Context,
    user: &UserId,
    claim: &Claim,
) -> Result<(), StoreError> {
    let (key, subject) = (token_inspection::key(user), Subject::Token(user.clone()));
    let Some(stored) = load_record::<TokenInspection>(&*context.store, &key).await? else {
        commit_one(&*context.store, remove_due_commit(subject, key)).await?;
        return Ok(());
    };
    let Some(connection) = connection::find(&*context.store, user).await? else {
        commit_one(&*context.store, removal(user, stored.version)).await?;
        return Ok(());
    };
    let now = context.clock.now().max(claim.due_at);
    let mut polling = stored.value.polling.clone();
    polling.lower_impossible_times(now);
    let outcome = if polling.is_due(now, claim.due_at) {
        let connection = connection.value;
        Some(inspect(context, connection, &stored.value, claim.queue).await?)
    } else {
        None
    };
    let polling = |value: &TokenInspection| value.polling.clone();
    save_outcome(context, &key, &subject, polling, |value| {
        value
            .polling
            .lower_impossible_times(context.clock.now().max(now));
        match &outcome {
            None => {}
            Some(Outcome::Inspected { exchanged }) => {
                value.polling.begin_attempt(now);
                value.polling.complete_attempt(now);
                value.polling.daily_slot = Some(now.plus(INSPECTION_INTERVAL));
                if *exchanged {
                    value.exchanged_at = Some(now);
                }
            }
            Some(Outcome::Deferred(until)) => value.polling.defer_until(*until),
            Some(Outcome::Failed(error)) => {
                value.polling.begin_attempt(now);
                let delay = retry::delay_after(error, value.polling.failures);
                value
                    .polling
                    .fail_attempt(now.plus(delay.min(INSPECTION_INTERVAL)));
            }
        }
    })
    .await
}

/// Returns the commit that removes the inspections of a person without a connection.
fn removal(user: &UserId, version: u64) -> Commit {
    Commit {
        records: vec![RecordWrite::Delete {
            key: token_inspection::key(user),
            expected: Some(version),
        }],
        due: vec![DueWrite {
            subject: Subject::Token(user.clone()),
            due: None,
        }],
        ..Commit::default()
    }
}

/// Inspects the token of a connection and records the result in the connection.
async fn inspect(
    context: &Context,
    connection: Connection,
    known: &TokenInspection,
    queue_name: QueueName,
) -> Result<Outcome, StoreError> {
    let user = &connection.user;
    let guard = connection::epoch_guard(&*context.store, user).await?;
    let token = match open_user_token(context, user).await {
        Ok(token) => token,
        Err(UserTokenError::Store(error)) => return Err(error),
        Err(UserTokenError::Unusable(unusable)) => {
            if connection.status != unusable.status {
                mark_unusable(context, user, connection.connected_at, &unusable).await?;
            }
            return Ok(Outcome::Inspected { exchanged: false });
        }
    };
    let call_scope = rate_limits::CallScope::default();
    if let Some(until) = rate_limits::blocked_until(context, call_scope, queue_name).await? {
        return Ok(Outcome::Deferred(until));
    }
    let now = context.clock.now();
    let result = exchange_and_inspect(context, &connection, known, &token, now).await;
    let blocked = rate_limits::record_reply(context, call_scope, result.as_ref().err()).await?;
    match result {
        Err(error) => Ok(if let Some(until) = blocked {
            Outcome::Deferred(until)
        } else {
            tracing::warn!(connection = %user, error = %error, "a token could not be inspected or renewed");
            Outcome::Failed(error)
        }),
        Ok((info, renewed)) => {
            save_inspection(context, &connection, &guard, &info, renewed.as_ref()).await?;
            Ok(Outcome::Inspected {
                exchanged: renewed.is_some(),
            })
        }
    }
}

/// Exchanges a token that expires soon, then inspects the new token, or the old one if there was no
/// exchange.
async fn exchange_and_inspect(
    context: &Context,
    connection: &Connection,
    known: &TokenInspection,
    token: &Token,
    now: HostTime,
) -> Result<(TokenInfo, Option<IssuedToken>), GraphError> {
    let expires_at = connection.token_expires_at;
    let expires_soon = expires_at.is_some_and(|at| at > now && now.until(at) < RENEW_BEFORE_EXPIRY);
    let exchanged_at = known.exchanged_at.unwrap_or(connection.connected_at);
    let may_exchange = exchanged_at > now || exchanged_at.until(now) >= EXCHANGE_INTERVAL;
    if expires_soon && may_exchange && connection.status == Status::Active {
        match exchange(context, &connection.user, token).await {
            Ok((info, renewed)) => return Ok((info, Some(renewed))),
            // The inspection of the present token says whether it is invalid.
            Err(error) => {
                tracing::warn!(connection = %connection.user, error = %error, "a token could not be renewed");
            }
        }
    }
    Ok((context.graph.debug_token(token).await?, None))
}

/// Exchanges a token and inspects the new one. Fails if it is not a valid token of the same person.
async fn exchange(
    context: &Context,
    user: &UserId,
    token: &Token,
) -> Result<(TokenInfo, IssuedToken), GraphError> {
    let renewed = context.graph.exchange_for_long_lived(token).await?;
    let info = context.graph.debug_token(&renewed.token).await?;
    let is_same_person = info.user.as_ref().is_none_or(|owner| owner == user);
    if info.is_valid && is_same_person {
        return Ok((info, renewed));
    }
    let reason = "the exchanged token is not valid or belongs to another person";
    Err(GraphError::unexpected(reason))
}

/// Records the properties of the token of a connection, unless a login has replaced the token
/// meanwhile.
async fn save_inspection(
    context: &Context,
    connection: &Connection,
    guard: &RecordGuard,
    info: &TokenInfo,
    renewed: Option<&IssuedToken>,
) -> Result<(), StoreError> {
    let user = &connection.user;
    if let Some(unusable) = refusal(info, user) {
        if connection.status != Status::NeedsLogin {
            mark_unusable(context, user, connection.connected_at, &unusable).await?;
            request_reads(context, user, page::Status::NeedsLogin).await?;
        }
        return Ok(());
    }
    let sealed = renewed
        .map(|renewed| seal(context, user, &renewed.token))
        .transpose()?;
    let lost_permission = connection
        .permissions
        .iter()
        .any(|permission| !info.scopes.contains(permission));
    let has_changed = permission_set(&connection.permissions) != permission_set(&info.scopes);
    let saved = update_connection(
        context,
        user,
        Some(guard),
        DueUpdate::Unchanged,
        |stored, commit, now| {
            if stored.connected_at != connection.connected_at {
                // A login has replaced the token.
                return false;
            }
            commit.records.extend(sealed.clone());
            apply_info(stored, info, renewed, now);
            true
        },
    )
    .await?;
    if saved.is_none() {
        return Ok(());
    }
    if renewed.is_some() {
        tracing::info!(connection = %user, "a long-lived token was renewed");
    }
    // A token that works again, or other permissions than before, may give access to other Pages.
    let now = context.clock.now();
    let was_tried_recently = connection
        .polling
        .last_attempt_began
        .is_some_and(|began| began.until(now) < INSPECTION_INTERVAL);
    let may_work_again = matches!(connection.status, Status::NeedsLogin | Status::NeedsKey);
    if has_changed || (may_work_again && !was_tried_recently) {
        request_poll(context, user).await?;
    }
    if lost_permission {
        request_reads(context, user, page::Status::NeedsPermission).await?;
    }
    Ok(())
}

/// Returns why a connection cannot be used with the inspected token, or `None` if it can be used.
fn refusal(info: &TokenInfo, user: &UserId) -> Option<UnusableConnection> {
    if info.is_valid && info.user.as_ref().is_none_or(|owner| owner == user) {
        return None;
    }
    Some(UnusableConnection::of_error(&info.refusal()))
}

/// Returns permissions as a set.
pub(super) fn permission_set(permissions: &[String]) -> BTreeSet<&str> {
    permissions.iter().map(String::as_str).collect()
}

/// Records the properties of a valid token in its connection.
pub(super) fn apply_info(
    connection: &mut Connection,
    info: &TokenInfo,
    renewed: Option<&IssuedToken>,
    now: HostTime,
) {
    connection.permissions.clone_from(&info.scopes);
    connection.data_access_expires_at = info.data_access_expires_at;
    let lifetime = renewed.and_then(|renewed| renewed.expires_in);
    let from_exchange = lifetime.map(|lifetime| now.plus(lifetime));
    connection.token_expires_at = match renewed {
        Some(_) => info.expires_at.or(from_exchange),
        None => info.expires_at.or(connection.token_expires_at),
    };
    connection.token_inspected_at = Some(now);
    let days_left = expiry::days_left(connection, now);
    // The expiry is further away than any alert, so the alerts start again.
    if days_left.is_none_or(|days_left| days_left > expiry::ALERT_DAYS[0]) {
        connection.last_expiry_alert = None;
    }
}

/// Returns the write of the record of a person's token.
fn seal(context: &Context, user: &UserId, token: &Token) -> Result<RecordWrite, StoreError> {
    let keys = context.keyring.keys();
    let now = context.clock.now();
    let key = token::user_key(user);
    let sealed = keys.and_then(|keys| token::seal_write(key, Some(token), keys.current(), now));
    sealed.map_err(|error| StoreError::Unexpected(error.to_string()))
}

/// Creates the records of inspections of connections that have none, because an earlier version of
/// pagesync created them. Fails if the store does not answer.
pub(super) async fn add_missing(
    context: &Context,
    connections: &[Connection],
) -> Result<(), StoreError> {
    for Connection { user, .. } in connections {
        let key = token_inspection::key(user);
        if context.store.load_record(&key).await?.is_some() {
            continue;
        }
        let mut commit = Commit {
            guards: vec![RecordGuard { key, version: 0 }],
            ..Commit::default()
        };
        token_inspection::add_new(&mut commit, user, context.clock.now());
        if let Some(Versioned { version, .. }) = connection::find(&*context.store, user).await? {
            let key = connection::key(user);
            commit.guards.push(RecordGuard { key, version });
            commit_one(&*context.store, commit).await?;
        }
    }
    Ok(())
}
