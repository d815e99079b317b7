//! `GET /facebook/login`: redirects the browser to Facebook's dialog, with a state that is valid in
//! this browser only.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use common::config::LoginPolicy;
use common::graph::calls::login_dialog_url;
use common::invitation;
use common::records::login::{self, Login, Stage};
use common::records::{put_write, write_records};
use common::sealing::random_text;
use common::store::StoreError;
use model::hex::sha256_hex;

use super::answer;
use super::context::LoginContext;
use super::cookie::{COOKIE_NAME, login_cookie};
use crate::context::Context;

/// The number of random bytes in a state, and in a cookie.
const RANDOM_BYTES: usize = 32;

/// The reason why a login cannot begin.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    /// The operating system returned no random bytes.
    #[error("the operating system returned no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The address of the dialog cannot be built from `PAGESYNC_DIALOG_URL`.
    #[error("PAGESYNC_DIALOG_URL is not the address of a dialog")]
    DialogUrl,
    /// The store did not answer, or refused the record of the login.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Handles `GET /facebook/login`: begins a login.
pub(crate) async fn redirect_to_dialog(
    State(context): State<Arc<Context>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let context = &context.login;
    if !is_invited(context, query.ok()) {
        context.metrics.logins.count("not_invited");
        let message = "You need a valid invitation to log in here. Please ask the operator of this site for a new link.";
        return answer::refusal(&headers, StatusCode::FORBIDDEN, "not_invited", message);
    }
    if !context.limits.admit(context.clock.now()) {
        context.metrics.logins.count("too_many");
        let message = "Too many people are logging in right now. Please try again in a moment.";
        return answer::refusal(&headers, StatusCode::TOO_MANY_REQUESTS, "too_many", message);
    }
    match create_login(context, &headers).await {
        Ok((address, cookie)) => {
            context.metrics.logins.count("begun");
            let headers = [
                (header::LOCATION, address),
                (header::SET_COOKIE, cookie),
                (header::CACHE_CONTROL, "no-store".to_owned()),
            ];
            (StatusCode::FOUND, headers).into_response()
        }
        Err(error) => {
            tracing::error!(error = %error, "a login cannot begin");
            let message = "Logins are not possible right now. Please try again in a minute.";
            answer::refusal(
                &headers,
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                message,
            )
        }
    }
}

/// Returns whether a request may begin a login. With [`LoginPolicy::Invited`], its query must have
/// a valid invitation.
fn is_invited(context: &LoginContext, query: Option<Query<Vec<(String, String)>>>) -> bool {
    match (
        context.config.login_policy,
        &context.config.invitation_secret,
    ) {
        (LoginPolicy::Open, _) => true,
        (LoginPolicy::Invited, None) => false,
        (LoginPolicy::Invited, Some(secret)) => query.is_some_and(|Query(pairs)| {
            let mut invitations = pairs.iter().filter(|(name, _)| name == "invitation");
            invitations.any(|(_, text)| invitation::is_valid(secret, text, context.clock.now()))
        }),
    }
}

/// Stores a new login, and returns the address of the dialog and the cookie to set.
async fn create_login(
    context: &LoginContext,
    headers: &HeaderMap,
) -> Result<(String, String), BeginError> {
    let state = random_text(RANDOM_BYTES)?;
    // An existing cookie is used again, so that logins in several tabs of one browser are all
    // valid.
    let cookie_value = match login_cookie(headers) {
        Some(value) => value.to_owned(),
        None => random_text(RANDOM_BYTES)?,
    };
    let address = login_dialog_url(&context.config, &state).ok_or(BeginError::DialogUrl)?;
    let login = Login {
        cookie_hash: sha256_hex(&cookie_value),
        began_at: context.clock.now(),
        stage: Stage::Waiting,
    };
    let key = login::key(&login::login_id(&state));
    write_records(
        &*context.store,
        vec![put_write(key, &login, Some(0), Some(login::TTL))],
    )
    .await?;
    // The cookie is Lax and not Strict, because Facebook's redirect is a navigation from another
    // site.
    let secure = if context.config.redirect_uri.starts_with("https://") {
        "; Secure"
    } else {
        ""
    };
    let cookie = format!(
        "{COOKIE_NAME}={cookie_value}; Path=/facebook; Max-Age=3600; HttpOnly; SameSite=Lax{secure}"
    );
    Ok((address.into(), cookie))
}
