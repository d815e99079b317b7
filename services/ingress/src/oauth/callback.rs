//! `GET /facebook/callback`: the address to which the dialog redirects the browser.
//!
//! Invariant: a code is exchanged at most once, and only if its login began in this browser.
//!
//! | request | answer |
//! |---|---|
//! | the state is missing, unknown, expired, or of another browser | 400; nothing is exchanged |
//! | the client used too many states | 429; nothing is stored and nothing is exchanged |
//! | the person denied access, or Facebook reports an error | 403 or 400; the state is used up |
//! | a state and a code | the code is exchanged once; then the progress of the login |
//! | the same request again, from the same browser | the same answer; nothing is exchanged |

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use common::graph::error::{ErrorKind, GraphError};
use common::http::PeerAddress;
use common::invitation::Invitation;
use common::records::login::{self, Login, Stage};
use common::records::token_exchange::{self, TokenExchange};
use common::records::{commit_one, load_record, put_write, write_records};
use common::store::{CommitOutcome, StoreError, Versioned};
use common::views::failure::reported_text;
use model::id::LoginId;

use super::answer;
use super::context::LoginContext;
use super::cookie::login_cookie;
use super::html_page::{Links, login_link};
use super::state::{StateError, VerifiedState};
use crate::client::Client;
use crate::context::Context;

/// The longest code that is sent to Facebook, in bytes. Real codes have a few hundred characters.
const MAX_CODE: usize = 4096;

/// The answer to a callback whose code is not exchanged.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    /// The code of the error for programs; also the label of the metric.
    error_code: &'static str,
    /// The message for people.
    message: String,
    /// The invitation with which the login began; empty if it needed none or is not known.
    invitation: String,
}

impl Refusal {
    fn new(status: StatusCode, error_code: &'static str, message: &str) -> Self {
        Self {
            status,
            error_code,
            message: message.to_owned(),
            invitation: String::new(),
        }
    }

    fn bad_request(error_code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error_code, message)
    }

    /// Logs an error of the store, and returns the answer to it.
    fn unavailable(error: &StoreError) -> Self {
        tracing::error!(error = %error, "a login cannot continue");
        let message = "This cannot be completed right now. Please reload the page in a minute.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }
}

/// Handles `GET /facebook/callback`: exchanges the code of a login, which a worker then completes,
/// and returns the progress of the login.
pub(crate) async fn handle_callback(
    State(context): State<Arc<Context>>,
    Extension(peer): Extension<PeerAddress>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let query = query.map_or_else(|_| Vec::new(), |Query(pairs)| pairs);
    let client = context.login.client(peer, &headers);
    match use_code(&context, client, &headers, &query).await {
        Ok((id, invitation)) => {
            let state = single_value(&query, "state").unwrap_or_default();
            let links = Links {
                reload: format!("callback?state={state}"),
                invitation,
            };
            answer::progress_response(&context.login, client, &headers, &id, &links).await
        }
        Err(refusal) => {
            let (status, code) = (refusal.status, refusal.error_code);
            context.login.metrics.logins.count(code);
            let link = login_link(&refusal.invitation, false);
            let link = (code != "not_invited").then_some(link.as_str());
            answer::refusal(&headers, status, code, &refusal.message, link)
        }
    }
}

/// Returns the value of a query parameter, or `None` if it is missing or given several times.
fn single_value<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = query.iter().filter(|(key, _)| key == name);
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value.as_str())
}

/// Verifies the state of a login, and exchanges its code if the code was not used yet. Returns the id
/// of the login, which is also the id of its token exchange, and the invitation with which the login
/// began.
async fn use_code(
    context: &Arc<Context>,
    client: Client,
    headers: &HeaderMap,
    query: &[(String, String)],
) -> Result<(LoginId, String), Refusal> {
    let (id, state) = verify_state(&context.login, headers, query)?;
    match use_verified(context, client, &id, &state, query).await {
        Ok(()) => Ok((id, state.invitation)),
        // An invitation outlives a login that failed or was cancelled.
        Err(refusal) => Err(Refusal {
            invitation: state.invitation,
            ..refusal
        }),
    }
}

/// Exchanges the code of a login whose state is verified, if the code was not used yet.
async fn use_verified(
    context: &Arc<Context>,
    client: Client,
    id: &LoginId,
    state: &VerifiedState,
    query: &[(String, String)],
) -> Result<(), Refusal> {
    let login_context = &context.login;
    let stored: Option<Versioned<Login>> = load_record(&*login_context.store, &login::key(id))
        .await
        .map_err(|error| Refusal::unavailable(&error))?;
    match stored.map(|stored| stored.value.stage) {
        Some(Stage::CodeUsed(_)) => return Ok(()),
        Some(Stage::Failed(reason)) => return Err(Refusal::bad_request("failed", &reason)),
        None => check_new(login_context, client, state)?,
    }
    if let Some(refusal) = dialog_error(query) {
        let failed = Stage::Failed(refusal.message.clone());
        write_stage(login_context, id, NOT_STORED, failed).await?;
        return Err(refusal);
    }
    let code =
        single_value(query, "code").filter(|code| !code.is_empty() && code.len() <= MAX_CODE);
    let code = code.ok_or_else(|| {
        Refusal::bad_request(
            "code_missing",
            "The code of the login is missing. Please begin again.",
        )
    })?;
    // The use of the code has its own task, so that it is completed if the browser disconnects.
    let (context, exchange_id, code) = (context.clone(), id.clone(), code.to_owned());
    let invitation = context
        .login
        .invitation(&state.invitation, state.began_at());
    let exchanged = tokio::spawn(async move {
        let used = Stage::CodeUsed(context.login.clock.now());
        match write_stage(&context.login, &exchange_id, NOT_STORED, used).await? {
            CommitOutcome::Applied => {
                exchange_code(&context.login, &exchange_id, &code, invitation).await
            }
            // Another request from this browser is exchanging the code.
            CommitOutcome::Stale => Ok(()),
        }
    });
    match exchanged.await {
        Ok(exchanged) => exchanged,
        Err(panic) => Err(Refusal::unavailable(&StoreError::Unexpected(
            panic.to_string(),
        ))),
    }
}

/// Verifies the state in the query, and returns it with the id of its login. Fails if this
/// deployment did not make it, or if the login began in another browser.
fn verify_state(
    context: &LoginContext,
    headers: &HeaderMap,
    query: &[(String, String)],
) -> Result<(LoginId, VerifiedState), Refusal> {
    let state = single_value(query, "state").filter(|state| !state.is_empty());
    let state = state.ok_or_else(|| {
        Refusal::bad_request(
            "state_missing",
            "The state of the login is missing. Please begin again.",
        )
    })?;
    let cookie = login_cookie(headers).unwrap_or_default();
    match context.state_keys.verify(state, cookie) {
        Ok(verified) => Ok((login::login_id(state), verified)),
        Err(StateError::Unknown) => Err(unknown_state()),
        Err(StateError::OtherBrowser) => Err(Refusal::bad_request(
            "other_browser",
            "This login began in another browser. Please begin again.",
        )),
    }
}

/// Checks whether a state that was not used yet may be used now.
fn check_new(context: &LoginContext, client: Client, state: &VerifiedState) -> Result<(), Refusal> {
    if !state.is_usable(context.clock.now()) {
        return Err(unknown_state());
    }
    // The secret may have been replaced since the login began, which ends its invitations.
    if !context.is_invited(&state.invitation, state.began_at()) {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "not_invited",
            "Your invitation is no longer valid. Please ask the operator of this site for a new link.",
        ));
    }
    if !context.limits.used.admit(client) {
        return Err(Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many",
            answer::TOO_MANY,
        ));
    }
    Ok(())
}

fn unknown_state() -> Refusal {
    Refusal::bad_request(
        "state_unknown",
        "This login is unknown, or it began more than ten minutes ago. Please begin again.",
    )
}

/// Returns the refusal if the person denied access or Facebook reports an error. Source: "Manually
/// build a login flow". The form without `error` is not documented, but it was observed.
fn dialog_error(query: &[(String, String)]) -> Option<Refusal> {
    let names = ["error", "error_code", "error_reason", "error_message"];
    names.iter().find_map(|name| single_value(query, name))?;
    Some(if single_value(query, "error") == Some("access_denied") {
        Refusal::new(
            StatusCode::FORBIDDEN,
            "access_denied",
            "Facebook says that access was not allowed. Nothing was connected. You can begin again.",
        )
    } else {
        let names = ["error_description", "error_message", "error"];
        let text = names
            .iter()
            .find_map(|name| single_value(query, name))
            .unwrap_or("");
        let text: String = text.chars().take(200).collect();
        Refusal::bad_request(
            "facebook_error",
            &format!("Facebook could not complete the login: {text}"),
        )
    })
}

/// The version of the record of a login whose state was not used yet.
const NOT_STORED: u64 = 0;
/// The version of the record of a login whose code is being exchanged.
const CODE_USED: u64 = 1;

/// Writes the stage of a login if its record has the version `expected`.
async fn write_stage(
    context: &LoginContext,
    id: &LoginId,
    expected: u64,
    stage: Stage,
) -> Result<CommitOutcome, Refusal> {
    let ttl = Some(login::ANSWER_TTL);
    let put = put_write(login::key(id), &Login { stage }, Some(expected), ttl);
    let written = write_records(&*context.store, vec![put]).await;
    written.map_err(|error| Refusal::unavailable(&error))
}

/// Exchanges the code for a short-lived token, and stores the sealed token for the worker.
async fn exchange_code(
    context: &LoginContext,
    id: &LoginId,
    code: &str,
    invitation: Option<Invitation>,
) -> Result<(), Refusal> {
    let exchanged = context
        .graph
        .exchange_code(code, &context.config.redirect_uri)
        .await;
    let sealed = match exchanged {
        Ok(granted) => context
            .sealer
            .seal(&granted.token, &token_exchange::seal_name(id))
            .map_err(|error| {
                tracing::error!(error = %error, "a token cannot be sealed; the login failed");
                Refusal::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "unavailable",
                    "This site cannot store the login. Please tell its operator.",
                )
            }),
        Err(error) => Err(exchange_error(&error)),
    };
    let sealed = match sealed {
        Ok(sealed) => sealed,
        Err(refusal) => {
            let failed = Stage::Failed(refusal.message.clone());
            write_stage(context, id, CODE_USED, failed).await?;
            return Err(refusal);
        }
    };
    let now = context.clock.now();
    let may_never_expire = context.config.login_config_id.is_some();
    let exchange = TokenExchange {
        invitation,
        ..TokenExchange::new(sealed, now, may_never_expire)
    };
    let commit = token_exchange::begin_commit(id, &exchange, now);
    commit_one(&*context.store, commit)
        .await
        .map_err(|error| Refusal::unavailable(&error))?;
    context.metrics.logins.count("exchanged");
    Ok(())
}

/// Logs the error of the exchange of a code, and returns the answer to it.
fn exchange_error(error: &GraphError) -> Refusal {
    tracing::warn!(error = %error, "a code could not be exchanged");
    match error.kind {
        ErrorKind::Transient(_) | ErrorKind::RateLimited { .. } => Refusal::new(
            StatusCode::BAD_GATEWAY,
            "facebook_unavailable",
            "Facebook does not answer right now. Please begin again in a minute.",
        ),
        _ => {
            let said = error.reported.as_deref().map(reported_text);
            let said = said.map_or_else(String::new, |said| format!(" {said}."));
            let text = format!("Facebook did not accept the login.{said} Please begin again.");
            Refusal::bad_request("exchange_failed", &text)
        }
    }
}
