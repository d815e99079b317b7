//! The completion of a login: the short-lived token of a login is exchanged for a long-lived one,
//! and the connection is created.
//!
//! Invariant: one commit changes the token exchange, the connection and its token. The commit is
//! guarded by the epoch of the connection, so that it cannot undo an erasure.

use std::time::Duration;

use common::graph::calls::{IssuedToken, TokenInfo};
use common::graph::error::{ErrorKind, GraphError};
use common::invitation::Invitation;
use common::records::connection::{self, Connection, MAX_RESULT_PAGE_SIZE, Status};
use common::records::token_exchange::{self, Stage, TokenExchange};
use common::records::{
    commit_one, erasure, invitation, load_record, put_write, token, token_inspection,
};
use common::retry;
use common::sealing::{SealedToken, SealingError, Token};
use common::store::{
    Commit, CommitOutcome, DueWrite, RecordGuard, RecordWrite, StoreError, Versioned,
};
use common::views::failure::reported_text;
use model::id::{LoginId, Subject, UserId};
use model::queue_name::QueueName;
use model::time::HostTime;

use super::commits::remove_due_commit;
use super::token_inspection::INSPECTION_INTERVAL;
use super::{app_subscription, rate_limits};
use crate::context::Context;

/// A login whose token was exchanged.
struct CompletedLogin {
    /// The person who logged in.
    user: UserId,
    /// The name of the person at Facebook.
    name: Option<String>,
    /// The long-lived token.
    long_lived: IssuedToken,
    /// The properties of the long-lived token.
    info: TokenInfo,
}

/// Completes a login. Fails if the store does not answer. An error of Graph is recorded, and the
/// exchange is repeated if the error is temporary.
pub(super) async fn poll(context: &Context, id: &LoginId) -> Result<(), StoreError> {
    let key = token_exchange::key(id);
    let subject = Subject::Login(id.clone());
    let Some(Versioned {
        version,
        value:
            TokenExchange {
                code_exchanged_at,
                failures,
                stage: Stage::Sealed(sealed),
                may_never_expire,
                invitation,
            },
    }) = load_record(&*context.store, &key).await?
    else {
        commit_one(&*context.store, remove_due_commit(subject, key)).await?;
        return Ok(());
    };
    let keys = context.keyring.keys();
    let opened = keys.and_then(|keys| keys.open(&sealed, &token_exchange::seal_name(id)));
    let login = match opened {
        Ok(short_lived) => {
            let login = exchange_token(context, short_lived, may_never_expire).await;
            let call_scope = rate_limits::CallScope::default();
            rate_limits::record_reply(context, call_scope, login.as_ref().err()).await?;
            login
        }
        // The key file may be readable soon. A missing key or a damaged token is final.
        Err(error @ SealingError::File { .. }) => Err(GraphError::transient(error.to_string())),
        Err(error) => {
            tracing::error!(error = %error, "the token of a login cannot be opened by this worker");
            let reason = "the worker cannot open the token that ingress sealed";
            Err(GraphError::configuration(reason))
        }
    };
    let (stage, failures, due) = next_stage(context, &login, sealed, failures);
    let mut record = TokenExchange {
        code_exchanged_at,
        failures,
        stage,
        may_never_expire,
        invitation,
    };
    loop {
        let mut next = match &login {
            Ok(login) => connect_or_fail(context, login, &mut record).await?,
            Err(_) => Commit::default(),
        };
        let put = put_write(
            key.clone(),
            &record,
            Some(version),
            Some(token_exchange::TTL),
        );
        next.records.push(put);
        next.due.push(DueWrite {
            subject: subject.clone(),
            due,
        });
        if commit_one(&*context.store, next).await? == CommitOutcome::Applied {
            return Ok(());
        }
        // If the connection or the app was written meanwhile, the next commit uses the same token.
        // If the token exchange was written, another worker has completed the login.
        let stored = context.store.load_record(&key).await?;
        if stored.is_none_or(|stored| stored.version != version) {
            return Ok(());
        }
    }
}

/// Returns the commit that stores the connection of a completed login. If the data of the person
/// was erased since the code was exchanged, marks `record` as failed and returns an empty commit.
async fn connect_or_fail(
    context: &Context,
    login: &CompletedLogin,
    record: &mut TokenExchange,
) -> Result<Commit, StoreError> {
    // The guard is loaded first, so that a later erasure makes the commit stale.
    let guard = connection::epoch_guard(&*context.store, &login.user).await?;
    let erasure = erasure::last_erasure(&*context.store, &login.user).await?;
    if erasure.is_after_login(login.info.issued_at, record.code_exchanged_at) {
        let reason = "the data of the person was erased during the login";
        record.stage = Stage::Failed(reason.to_owned());
        return Ok(Commit::default());
    }
    let invited = match invited(context, &login.user, record.invitation.as_ref()).await? {
        Ok(invited) => invited,
        Err(reason) => {
            record.stage = Stage::Failed(reason.to_owned());
            return Ok(Commit::default());
        }
    };
    // The request arrived after the exchange of the code, but Facebook had issued it before the
    // token. The Pages that it erased are stored again.
    let millisecond = Duration::from_millis(1);
    let after_erasure = erasure.erasure_requested_at.map(|at| at.plus(millisecond));
    let consented_at = record
        .code_exchanged_at
        .max(after_erasure.unwrap_or_default());
    connect_commit(context, login, consented_at, guard, invited).await
}

/// What the invitation of a login brings: the client, and the write that records the person.
#[derive(Default)]
struct Invited {
    client: Option<String>,
    write: Option<RecordWrite>,
}

/// Checks whether a person may use an invitation. Returns the reason if they may not. Fails if the
/// store does not answer.
async fn invited(
    context: &Context,
    user: &UserId,
    invitation: Option<&Invitation>,
) -> Result<Result<Invited, &'static str>, StoreError> {
    let id = match invitation {
        None => return Ok(Ok(Invited::default())),
        Some(Invitation::Person(person)) if person == user => return Ok(Ok(Invited::default())),
        Some(Invitation::Person(_)) => {
            return Ok(Err(
                "this link was made for another person: ask the operator of this site for a link of your own",
            ));
        }
        Some(Invitation::Stored(id)) => id,
    };
    let Some(Versioned { version, mut value }) = invitation::find(&*context.store, id).await?
    else {
        return Ok(Err(
            "the invitation does not exist any more: ask the operator of this site for a new link",
        ));
    };
    if let Some(reason) = value.refusal(user) {
        return Ok(Err(reason));
    }
    value.used_by = Some(user.clone());
    let write = invitation::put(id, &value, version, context.clock.now());
    Ok(Ok(Invited {
        client: value.client,
        write: Some(write),
    }))
}

/// Returns the stage of a token exchange after an attempt, its number of failures, and when it is
/// due next.
fn next_stage(
    context: &Context,
    login: &Result<CompletedLogin, GraphError>,
    sealed: SealedToken,
    failures: u32,
) -> (Stage, u32, Option<(QueueName, HostTime)>) {
    let is_temporary = |error: &GraphError| {
        matches!(
            error.kind,
            ErrorKind::Transient(_) | ErrorKind::RateLimited { .. } | ErrorKind::UnexpectedReply(_)
        )
    };
    match login {
        Ok(login) => (Stage::Connected(login.user.clone()), 0, None),
        Err(error) if is_temporary(error) => {
            let delay = retry::LOGIN.delay(failures);
            let at = context.clock.now().plus(delay);
            (
                Stage::Sealed(sealed),
                failures + 1,
                Some((QueueName::Logins, at)),
            )
        }
        Err(error) => {
            tracing::warn!(error = %error, "a login cannot be completed");
            let said = error.reported.as_deref().map(reported_text);
            let reason = said.map_or_else(|| error.to_string(), |said| format!("{error}; {said}"));
            (Stage::Failed(reason), failures, None)
        }
    }
}

/// Exchanges a short-lived token, unless it `may_never_expire` and does not expire. Fails if the new
/// token is not a valid token of a person or a system user for this app.
async fn exchange_token(
    context: &Context,
    short_lived: Token,
    may_never_expire: bool,
) -> Result<CompletedLogin, GraphError> {
    let unexchanged = if may_never_expire {
        Some(context.graph.debug_token(&short_lived).await?)
    } else {
        None
    };
    // An invalid token gets its error below.
    let unexchanged = unexchanged.filter(|info| info.expires_at.is_none() || !info.is_valid);
    let (long_lived, info) = if let Some(info) = unexchanged {
        let (token, expires_in) = (short_lived, None);
        (IssuedToken { token, expires_in }, info)
    } else {
        let long_lived = context.graph.exchange_for_long_lived(&short_lived).await?;
        let info = context.graph.debug_token(&long_lived.token).await?;
        (long_lived, info)
    };
    let refuse = |reason: &str| Err(GraphError::configuration(reason));
    if !info.is_valid {
        return Err(info.refusal());
    }
    if info.app_id != context.graph.app_id() {
        return refuse("the token belongs to another app");
    }
    if !matches!(info.kind.as_str(), "USER" | "SYSTEM_USER") {
        return refuse("the token does not belong to a person");
    }
    let Some(user) = info.user.clone() else {
        return refuse("Facebook does not say to whom the token belongs");
    };
    let name = context.graph.user_name(&long_lived.token).await?;
    Ok(CompletedLogin {
        user,
        name,
        long_lived,
        info,
    })
}

/// Returns the commit that creates or renews the connection of a login. The connection is due now.
/// Fails if the store does not answer.
async fn connect_commit(
    context: &Context,
    login: &CompletedLogin,
    consented_at: HostTime,
    guard: RecordGuard,
    invited: Invited,
) -> Result<Commit, StoreError> {
    let now = context.clock.now();
    let user = &login.user;
    let stored = connection::find(&*context.store, user).await?;
    let (version, stored) = stored.map_or((0, None), |stored| (stored.version, Some(stored.value)));
    let (mut polling, last_poll, client) = stored.map_or_else(Default::default, |stored| {
        (stored.polling, stored.last_poll, stored.client)
    });
    polling.request_login_read(now);
    let expires_at = login
        .long_lived
        .expires_in
        .map(|lifetime| now.plus(lifetime));
    let connection = Connection {
        user: user.clone(),
        name: login.name.clone(),
        client: invited.client.or(client),
        status: Status::Active,
        connected_at: now,
        consented_at,
        token_issued_at: login.info.issued_at,
        permissions: login.info.scopes.clone(),
        token_expires_at: login.info.expires_at.or(expires_at),
        data_access_expires_at: login.info.data_access_expires_at,
        polling,
        poll_progress: None,
        last_poll,
        problem: None,
        last_failure: None,
        result_page_size: MAX_RESULT_PAGE_SIZE,
        last_expiry_alert: None,
        token_inspected_at: Some(now),
    };
    let mut commit = connection::update_commit(&connection, version);
    let keys = context.keyring.keys();
    let write = keys.and_then(|keys| {
        token::seal_write(
            token::user_key(user),
            Some(&login.long_lived.token),
            keys.current(),
            now,
        )
    });
    match write {
        Ok(write) => commit.records.push(write),
        Err(error) => return Err(StoreError::Unexpected(error.to_string())),
    }
    commit.records.extend(invited.write);
    commit.guards.push(guard);
    token_inspection::add_new(&mut commit, user, now.plus(INSPECTION_INTERVAL));
    app_subscription::request_check(context, &mut commit).await?;
    tracing::info!(connection = %user, scopes = ?connection.permissions, "a person connected");
    Ok(commit)
}
