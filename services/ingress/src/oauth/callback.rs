//! `GET /facebook/callback`: the way back from the dialog.
//!
//! | what comes | answer |
//! |---|---|
//! | no state, an unknown, expired or foreign one | 400, nothing exchanged |
//! | the person said no, or Facebook reports an error | 403 or 400, the state is used up |
//! | a state and a code | the code is exchanged once; then the progress of the grant |
//! | the same once more, from the same browser | the same answer, nothing exchanged |

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use common::graph::error::GraphError;
use common::records::grant::{self, Grant};
use common::records::login::{self, Login, Stage};
use common::records::{commit_one, load_record, put_write, write_records};
use common::store::{Commit, CommitOutcome, DueWrite, StoreError, Versioned};
use model::hex::sha256_hex;
use model::id::{GrantId, Subject};
use model::queue_name::QueueName;
use subtle::ConstantTimeEq as _;

use super::answer;
use super::context::OAuth;
use super::cookie::cookie;
use crate::context::Context;

/// Longest code that is taken to Facebook; real ones have a few hundred characters.
const MAX_CODE: usize = 4096;

/// A refusal: status, word for programs, sentence for people.
type Refusal = (StatusCode, &'static str, String);

/// Ends a login.
pub(crate) async fn end(
    State(context): State<Arc<Context>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let oauth = &context.oauth;
    let query = query.map_or_else(|_| Vec::new(), |Query(pairs)| pairs);
    match take(&context, &headers, &query).await {
        Ok(id) => {
            let state = one(&query, "state").unwrap_or_default();
            answer::progress(oauth, &headers, &id, state).await
        }
        Err((status, word, text)) => {
            oauth.metrics.logins.count(word);
            answer::refusal(&headers, status, word, &text)
        }
    }
}

/// The one value of a parameter; two values are none.
fn one<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = query.iter().filter(|(key, _)| key == name);
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value.as_str())
}

fn bad(word: &'static str, text: &str) -> Refusal {
    (StatusCode::BAD_REQUEST, word, text.to_owned())
}

fn unavailable(error: &StoreError) -> Refusal {
    tracing::error!(error = %error, "a login cannot go on");
    let text = "This cannot be completed right now. Please reload the page in a minute.";
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        text.to_owned(),
    )
}

/// Finds the login, exchanges its code if nobody has; answers with the grant to follow.
async fn take(
    context: &Arc<Context>,
    headers: &HeaderMap,
    query: &[(String, String)],
) -> Result<GrantId, Refusal> {
    let oauth = &context.oauth;
    let state = one(query, "state").filter(|state| !state.is_empty() && state.len() <= 256);
    let state = state.ok_or_else(|| {
        bad(
            "state_missing",
            "The state of the login is missing. Please begin again at /facebook/login.",
        )
    })?;
    let id = login::login_id(state);
    let stored: Option<Versioned<Login>> = load_record(&*oauth.store, &login::key(&id))
        .await
        .map_err(|error| unavailable(&error))?;
    let unknown = "This login is not known here, or it began more than ten minutes ago. Please begin again at /facebook/login.";
    // Also by our own clock: the store forgets it a little later.
    let fresh = stored.filter(|stored| {
        let age = stored.value.began_at.until(oauth.clock.now());
        age <= login::TTL || stored.value.stage != Stage::Waiting
    });
    let Versioned { version, value } = fresh.ok_or_else(|| bad("state_unknown", unknown))?;
    let browser = sha256_hex(cookie(headers).unwrap_or_default());
    if !bool::from(browser.as_bytes().ct_eq(value.cookie_hash.as_bytes())) {
        let text = "This login began in another browser. Please begin again at /facebook/login.";
        return Err(bad("other_browser", text));
    }
    match value.stage {
        Stage::CodeUsed(_) => return Ok(id),
        Stage::Failed(why) => return Err(bad("failed", &why)),
        Stage::Waiting => {}
    }
    if let Some(refusal) = said_no(query) {
        settle(
            oauth,
            &id,
            version,
            &value,
            Stage::Failed(refusal.2.clone()),
        )
        .await?;
        return Err(refusal);
    }
    let code = one(query, "code").filter(|code| !code.is_empty() && code.len() <= MAX_CODE);
    let code = code.ok_or_else(|| {
        bad(
            "code_missing",
            "The code of the login is missing. Please begin again at /facebook/login.",
        )
    })?;
    if settle(
        oauth,
        &id,
        version,
        &value,
        Stage::CodeUsed(oauth.clock.now()),
    )
    .await?
        == CommitOutcome::Stale
    {
        // Another request of the same browser was faster: it has the code.
        return Ok(id);
    }
    // A task of its own: a browser that goes away must not cut the exchange of a code in two.
    let (context, grant, code) = (context.clone(), id.clone(), code.to_owned());
    let exchanged =
        tokio::spawn(
            async move { exchange(&context.oauth, &grant, &value, version + 1, &code).await },
        );
    match exchanged.await {
        Ok(exchanged) => exchanged.map(|()| id),
        Err(panic) => Err(unavailable(&StoreError::Unexpected(panic.to_string()))),
    }
}

/// Whether the person or Facebook ended it. Source: "Manually build a login flow"; the second form,
/// without `error`, is from captures.
fn said_no(query: &[(String, String)]) -> Option<Refusal> {
    let names = ["error", "error_code", "error_reason", "error_message"];
    names.iter().find_map(|name| one(query, name))?;
    let denied = one(query, "error") == Some("access_denied");
    Some(if denied {
        let text = "Facebook says that access was not allowed. Nothing was connected; you can begin again at /facebook/login.";
        (StatusCode::FORBIDDEN, "access_denied", text.to_owned())
    } else {
        let said = ["error_description", "error_message", "error"];
        let said = said.iter().find_map(|name| one(query, name)).unwrap_or("");
        let said: String = said.chars().take(200).collect();
        bad(
            "facebook_error",
            &format!("Facebook could not complete the login: {said}"),
        )
    })
}

async fn settle(
    oauth: &OAuth,
    id: &GrantId,
    version: u64,
    login: &Login,
    stage: Stage,
) -> Result<CommitOutcome, Refusal> {
    let login = Login {
        stage,
        ..login.clone()
    };
    let ttl = Some(login::ANSWER_TTL);
    let put = put_write(login::key(id), &login, Some(version), ttl);
    let written = write_records(&*oauth.store, vec![put]).await;
    written.map_err(|error| unavailable(&error))
}

async fn exchange(
    oauth: &OAuth,
    id: &GrantId,
    login: &Login,
    version: u64,
    code: &str,
) -> Result<(), Refusal> {
    let granted = oauth
        .graph
        .exchange_code(code, &oauth.config.redirect_uri)
        .await;
    let granted = match granted {
        Ok(granted) => granted,
        Err(error) => {
            tracing::warn!(error = %error, "a code could not be exchanged");
            let passes = matches!(
                error,
                GraphError::Transient(_) | GraphError::RateLimited { .. }
            );
            let status = if passes {
                StatusCode::BAD_GATEWAY
            } else {
                StatusCode::BAD_REQUEST
            };
            let (word, text) = if passes {
                (
                    "facebook_unavailable",
                    "Facebook does not answer right now. Please begin again at /facebook/login in a minute.",
                )
            } else {
                (
                    "exchange_failed",
                    "Facebook did not accept the login. Please begin again at /facebook/login.",
                )
            };
            settle(oauth, id, version, login, Stage::Failed(text.to_owned())).await?;
            return Err((status, word, text.to_owned()));
        }
    };
    let sealed = oauth.sealer.seal(&granted.token, &grant::seal_name(id));
    let sealed = match sealed {
        Ok(sealed) => sealed,
        Err(error) => {
            tracing::error!(error = %error, "a token cannot be sealed: the login is lost");
            let text = "This deployment cannot keep the login. Please tell its operator.";
            settle(oauth, id, version, login, Stage::Failed(text.to_owned())).await?;
            return Err((
                StatusCode::INTERNAL_SERVER_ERROR,
                "unavailable",
                text.to_owned(),
            ));
        }
    };
    let now = oauth.clock.now();
    let grant = Grant {
        began_at: now,
        failures: 0,
        stage: grant::Stage::Sealed(sealed),
    };
    let next = Commit {
        records: vec![put_write(grant::key(id), &grant, Some(0), Some(grant::TTL))],
        due: vec![DueWrite {
            subject: Subject::Grant(id.clone()),
            due: Some((QueueName::PollsNow, now)),
        }],
        ..Commit::default()
    };
    commit_one(&*oauth.store, next)
        .await
        .map_err(|error| unavailable(&error))?;
    oauth.metrics.logins.count("exchanged");
    Ok(())
}
