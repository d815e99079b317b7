//! Completing a login: the short-lived token becomes a long-lived one, and a connection.

use std::time::Duration;

use common::custody::{CustodyError, Sealed, Token};
use common::graph::calls::{Granted, TokenInfo};
use common::graph::error::GraphError;
use common::records::connection::{self, Connection, RESULT_PAGE, Status};
use common::records::grant::{self, Grant, Stage};
use common::records::{commit, erasure, get, put, token};
use common::store::{Commit, DueWrite, Key, Outcome, StoreError, Versioned};
use model::due::Polling;
use model::id::{GrantId, Subject, UserId};
use model::lane::Lane;
use model::time::Millis;

use super::commits::forget_due;
use super::pace::doubled;
use super::{app, limits};
use crate::Parts;

/// A person waits: the first pauses are short.
const FIRST_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A login that worked.
struct Person {
    user: UserId,
    name: Option<String>,
    granted: Granted,
    info: TokenInfo,
}

pub(super) async fn poll(parts: &Parts, id: &GrantId) -> Result<(), StoreError> {
    let key = grant::key(id);
    let subject = Subject::Grant(id.clone());
    let Some(Versioned {
        version,
        value:
            Grant {
                begun,
                failures,
                stage: Stage::Sealed(sealed),
            },
    }) = get(&*parts.store, &key).await?
    else {
        commit(&*parts.store, forget_due(subject, key)).await?;
        return Ok(());
    };
    let opened = parts
        .keyring
        .keys()
        .and_then(|keys| keys.open(&sealed, &grant::seal_name(id)));
    let person = match opened {
        Ok(short) => {
            let person = complete(parts, &short).await;
            limits::note(parts, limits::Whose::default(), person.as_ref().err()).await?;
            person
        }
        // The file may be back in a moment; a key or a seal will not.
        Err(error @ CustodyError::File { .. }) => Err(GraphError::Transient(error.to_string())),
        Err(error) => {
            tracing::error!(error = %error, "the token of a login does not open here");
            let text = "this deployment could not open its own seal";
            Err(GraphError::Configuration(text.to_owned()))
        }
    };
    let (stage, failures, due) = decide(parts, &person, sealed, failures);
    let mut record = Grant {
        begun,
        failures,
        stage,
    };
    loop {
        let mut next = match &person {
            Ok(person) => {
                // First: an erasure that comes later finds its way into the guard.
                let guard = connection::guard(&*parts.store, &person.user).await?;
                if erasure::erased_at(&*parts.store, &person.user).await? >= Some(begun) {
                    let text = "the person asked to be forgotten while they logged in";
                    record.stage = Stage::Failed(text.to_owned());
                    Commit::default()
                } else {
                    connect(parts, person, begun, guard).await?
                }
            }
            Err(_) => Commit::default(),
        };
        next.records
            .push(put(key.clone(), &record, Some(version), Some(grant::TTL)));
        next.due.push(DueWrite {
            subject: subject.clone(),
            due,
        });
        if commit(&*parts.store, next).await? == Outcome::Applied {
            return Ok(());
        }
        // The connection or the app was written meanwhile: the token is good for the next try. Was it
        // the grant itself, another worker has done this.
        let held = parts.store.record(&key).await?;
        if held.is_none_or(|held| held.version != version) {
            return Ok(());
        }
    }
}

/// Where the grant stands after an attempt, and when the next one is.
fn decide(
    parts: &Parts,
    person: &Result<Person, GraphError>,
    sealed: Sealed,
    failures: u32,
) -> (Stage, u32, Option<(Lane, Millis)>) {
    let passes = |error: &GraphError| {
        matches!(
            error,
            GraphError::Transient(_) | GraphError::Throttled { .. } | GraphError::Odd(_)
        )
    };
    match person {
        Ok(person) => (Stage::Connected(person.user.clone()), 0, None),
        Err(error) if passes(error) => {
            let pause = doubled(FIRST_PAUSE, LONGEST_PAUSE, failures);
            let at = parts.clock.now().plus(pause);
            (
                Stage::Sealed(sealed),
                failures + 1,
                Some((Lane::PollsNow, at)),
            )
        }
        Err(error) => {
            tracing::warn!(error = %error, "a login cannot be completed");
            (Stage::Failed(error.to_string()), failures, None)
        }
    }
}

/// Exchanges, and makes sure that the token is a person's, of this app.
async fn complete(parts: &Parts, short: &Token) -> Result<Person, GraphError> {
    let granted = parts.graph.extend(short).await?;
    let info = parts.graph.debug_token(&granted.token).await?;
    let refuse = |why: &str| Err(GraphError::Configuration(why.to_owned()));
    if !info.is_valid {
        return refuse("the token is not valid");
    }
    if info.app_id != parts.graph.app_id() {
        return refuse("the token belongs to another app");
    }
    if !matches!(info.kind.as_str(), "USER" | "SYSTEM_USER") {
        return refuse("the token is not a person's");
    }
    let Some(user) = info.user.clone() else {
        return refuse("the token does not say whose it is");
    };
    let name = parts.graph.name(&granted.token).await?;
    Ok(Person {
        user,
        name,
        granted,
        info,
    })
}

/// The commit that makes or renews a connection, due now.
async fn connect(
    parts: &Parts,
    person: &Person,
    begun: Millis,
    guard: (Key, u64),
) -> Result<Commit, StoreError> {
    let now = parts.clock.now();
    let user = &person.user;
    let held = connection::find(&*parts.store, user).await?;
    let (version, mut polling, last) = held.map_or((0, Polling::default(), None), |held| {
        (held.version, held.value.polling, held.value.last)
    });
    polling.ask(now);
    // A person waits: what failed before the login is no reason to wait.
    (polling.not_before, polling.started, polling.failures) = (None, None, 0);
    let lives = person.granted.lives.map(|lives| now.plus(lives));
    let connection = Connection {
        user: user.clone(),
        name: person.name.clone(),
        status: Status::Active,
        connected: now,
        consented: begun,
        scopes: person.info.scopes.clone(),
        expires: person.info.expires.or(lives),
        data_access_expires: person.info.data_access_expires,
        polling,
        walk: None,
        last,
        problem: None,
        result_page: RESULT_PAGE,
        alerted: None,
        inspected: Some(now),
    };
    let mut commit = connection::save(&connection, version);
    let keys = parts.keyring.keys();
    let kept = keys.and_then(|keys| {
        token::keep(
            token::of_user(user),
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
    app::ask(parts, &mut commit).await?;
    tracing::info!(connection = %user, scopes = ?connection.scopes, "a person connected");
    Ok(commit)
}
