//! Completing a login: the short-lived token becomes a long-lived one, and a connection.

use common::graph::calls::{TokenGrant, TokenInfo};
use common::graph::error::GraphError;
use common::records::connection::{self, Connection, MAX_RESULT_PAGE_SIZE, Status};
use common::records::grant::{self, Grant, Stage};
use common::records::{commit_one, erasure, load_record, put_write, token};
use common::retry;
use common::sealing::{SealedToken, SealingError, Token};
use common::store::{Commit, CommitOutcome, DueWrite, RecordKey, StoreError, Versioned};
use model::id::{GrantId, Subject, UserId};
use model::polling::Polling;
use model::queue_name::QueueName;
use model::time::HostTime;

use super::commits::remove_due_commit;
use super::{app_subscription, rate_limits};
use crate::context::Context;

/// A login that worked.
struct CompletedLogin {
    user: UserId,
    name: Option<String>,
    granted: TokenGrant,
    info: TokenInfo,
}

pub(super) async fn poll(context: &Context, id: &GrantId) -> Result<(), StoreError> {
    let key = grant::key(id);
    let subject = Subject::Grant(id.clone());
    let Some(Versioned {
        version,
        value:
            Grant {
                began_at: begun,
                failures,
                stage: Stage::Sealed(sealed),
            },
    }) = load_record(&*context.store, &key).await?
    else {
        commit_one(&*context.store, remove_due_commit(subject, key)).await?;
        return Ok(());
    };
    let opened = context
        .keyring
        .keys()
        .and_then(|keys| keys.open(&sealed, &grant::seal_name(id)));
    let person = match opened {
        Ok(short) => {
            let person = exchange_token(context, &short).await;
            rate_limits::record_reply(
                context,
                rate_limits::CallBudget::default(),
                person.as_ref().err(),
            )
            .await?;
            person
        }
        // The file may be back in a moment; a key or a seal will not.
        Err(error @ SealingError::File { .. }) => Err(GraphError::Transient(error.to_string())),
        Err(error) => {
            tracing::error!(error = %error, "the token of a login does not open here");
            let text = "this deployment could not open its own seal";
            Err(GraphError::Configuration(text.to_owned()))
        }
    };
    let (stage, failures, due) = next_stage(context, &person, sealed, failures);
    let mut record = Grant {
        began_at: begun,
        failures,
        stage,
    };
    loop {
        let mut next = match &person {
            Ok(person) => {
                // First: an erasure that comes later finds its way into the guard.
                let guard = connection::epoch_guard(&*context.store, &person.user).await?;
                if erasure::erased_at(&*context.store, &person.user).await? >= Some(begun) {
                    let text = "the person asked to be forgotten while they logged in";
                    record.stage = Stage::Failed(text.to_owned());
                    Commit::default()
                } else {
                    connect_commit(context, person, begun, guard).await?
                }
            }
            Err(_) => Commit::default(),
        };
        next.records.push(put_write(
            key.clone(),
            &record,
            Some(version),
            Some(grant::TTL),
        ));
        next.due.push(DueWrite {
            subject: subject.clone(),
            due,
        });
        if commit_one(&*context.store, next).await? == CommitOutcome::Applied {
            return Ok(());
        }
        // The connection or the app was written meanwhile: the token is good for the next try. Was it
        // the grant itself, another worker has done this.
        let stored = context.store.load_record(&key).await?;
        if stored.is_none_or(|stored| stored.version != version) {
            return Ok(());
        }
    }
}

/// Where the grant stands after an attempt, and when the next one is.
fn next_stage(
    context: &Context,
    person: &Result<CompletedLogin, GraphError>,
    sealed: SealedToken,
    failures: u32,
) -> (Stage, u32, Option<(QueueName, HostTime)>) {
    let passes = |error: &GraphError| {
        matches!(
            error,
            GraphError::Transient(_)
                | GraphError::RateLimited { .. }
                | GraphError::UnexpectedReply(_)
        )
    };
    match person {
        Ok(person) => (Stage::Connected(person.user.clone()), 0, None),
        Err(error) if passes(error) => {
            let pause = retry::LOGIN.delay(failures);
            let at = context.clock.now().plus(pause);
            (
                Stage::Sealed(sealed),
                failures + 1,
                Some((QueueName::PollsNow, at)),
            )
        }
        Err(error) => {
            tracing::warn!(error = %error, "a login cannot be completed");
            (Stage::Failed(error.to_string()), failures, None)
        }
    }
}

/// Exchanges, and makes sure that the token is a person's, of this app.
async fn exchange_token(context: &Context, short: &Token) -> Result<CompletedLogin, GraphError> {
    let granted = context.graph.exchange_for_long_lived(short).await?;
    let info = context.graph.debug_token(&granted.token).await?;
    let refuse = |why: &str| Err(GraphError::Configuration(why.to_owned()));
    if !info.is_valid {
        return refuse("the token is not valid");
    }
    if info.app_id != context.graph.app_id() {
        return refuse("the token belongs to another app");
    }
    if !matches!(info.kind.as_str(), "USER" | "SYSTEM_USER") {
        return refuse("the token is not a person's");
    }
    let Some(user) = info.user.clone() else {
        return refuse("the token does not say whose it is");
    };
    let name = context.graph.user_name(&granted.token).await?;
    Ok(CompletedLogin {
        user,
        name,
        granted,
        info,
    })
}

/// The commit that makes or renews a connection, due now.
async fn connect_commit(
    context: &Context,
    person: &CompletedLogin,
    begun: HostTime,
    guard: (RecordKey, u64),
) -> Result<Commit, StoreError> {
    let now = context.clock.now();
    let user = &person.user;
    let stored = connection::find(&*context.store, user).await?;
    let (version, mut polling, last) = stored.map_or((0, Polling::default(), None), |stored| {
        (stored.version, stored.value.polling, stored.value.last_poll)
    });
    polling.request_read(now);
    // A person waits: what failed before the login is no reason to wait.
    (
        polling.not_before,
        polling.last_attempt_began,
        polling.failures,
    ) = (None, None, 0);
    let lives = person.granted.expires_in.map(|lives| now.plus(lives));
    let connection = Connection {
        user: user.clone(),
        name: person.name.clone(),
        status: Status::Active,
        connected_at: now,
        consented_at: begun,
        scopes: person.info.scopes.clone(),
        token_expires_at: person.info.expires.or(lives),
        data_access_expires_at: person.info.data_access_expires,
        polling,
        poll_progress: None,
        last_poll: last,
        problem: None,
        result_page_size: MAX_RESULT_PAGE_SIZE,
        last_expiry_alert: None,
        token_inspected_at: Some(now),
    };
    let mut commit = connection::save_commit(&connection, version);
    let keys = context.keyring.keys();
    let kept = keys.and_then(|keys| {
        token::seal_write(
            token::user_key(user),
            Some(&person.granted.token),
            keys.current(),
            now,
        )
    });
    match kept {
        Ok(kept) => commit.records.push(kept),
        Err(error) => return Err(StoreError::Unexpected(error.to_string())),
    }
    commit.guards.push(guard);
    app_subscription::request_check(context, &mut commit).await?;
    tracing::info!(connection = %user, scopes = ?connection.scopes, "a person connected");
    Ok(commit)
}
