//! `GET /facebook/login`: redirects the browser to Facebook's dialog, with a state that is valid in
//! this browser only.
//!
//! With `rerequest=true`, the dialog asks again for permissions that the person declined before. The
//! links that are shown where a permission is missing have it. Other links do not, because a report
//! says that the dialog then does not show the list of Pages.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use common::config::LoginPolicy;
use common::graph::calls::login_dialog_url;
use common::http::PeerAddress;
use common::invitation::Invitation;
use common::records::invitation;
use common::sealing::random_text;

use super::answer;
use super::context::LoginContext;
use super::cookie::{COOKIE_NAME, login_cookie};
use super::html_page::login_link;
use crate::context::Context;

/// The number of random bytes in a cookie.
const COOKIE_BYTES: usize = 32;

/// The reason why a login cannot begin.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    /// The operating system returned no random bytes.
    #[error("the operating system returned no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The address of the dialog cannot be built from `PAGESYNC_DIALOG_URL`.
    #[error("PAGESYNC_DIALOG_URL is not the address of a dialog")]
    DialogUrl,
}

/// Handles `GET /facebook/login`: begins a login.
pub(crate) async fn redirect_to_dialog(
    State(context): State<Arc<Context>>,
    Extension(peer): Extension<PeerAddress>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let context = &context.login;
    let query = query.map_or_else(|_| Vec::new(), |Query(pairs)| pairs);
    let asks_again = query
        .iter()
        .any(|(name, text)| name == "rerequest" && text == "true");
    let invitation = find_invitation(context, query);
    let invitation = match invitation {
        Some(invitation) if is_usable(context, &invitation).await => Some(invitation),
        _ => None,
    };
    let Some(invitation) = invitation else {
        context.metrics.logins.count("not_invited");
        let message = "You need a valid invitation to log in here. Please ask the operator of this site for a new link.";
        return answer::refusal(
            &headers,
            StatusCode::FORBIDDEN,
            "not_invited",
            message,
            None,
        );
    };
    if !context.limits.begun.admit(context.client(peer, &headers)) {
        context.metrics.logins.count("too_many");
        return answer::too_many(&headers, &login_link(&invitation, asks_again));
    }
    match begin_login(context, &headers, &invitation, asks_again) {
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
                Some(&login_link(&invitation, asks_again)),
            )
        }
    }
}

/// Returns the invitation of a request, or `None` if the request may not begin a login. The
/// invitation is empty if none is needed.
fn find_invitation(context: &LoginContext, query: Vec<(String, String)>) -> Option<String> {
    let now = context.clock.now();
    let mut invitations = query
        .into_iter()
        .filter(|(name, text)| name == "invitation" && !text.is_empty())
        .peekable();
    // A damaged or expired link must not connect a person without its client.
    let is_open = context.config.login_policy == LoginPolicy::Open && invitations.peek().is_none();
    let found = invitations.find(|(_, text)| context.invitation(text, now).is_some());
    found.map(|(_, text)| text).or(is_open.then(String::new))
}

/// Returns whether an invitation exists and is not revoked. If the store does not answer, the worker
/// decides later.
async fn is_usable(context: &LoginContext, invitation: &str) -> bool {
    let Some(Invitation::Stored(id)) = context.invitation(invitation, context.clock.now()) else {
        return true;
    };
    match invitation::find(&*context.store, &id).await {
        Ok(stored) => stored.is_some_and(|stored| stored.value.revoked_at.is_none()),
        Err(_) => true,
    }
}

/// Returns the address of the dialog and the cookie to set. Nothing is stored.
fn begin_login(
    context: &LoginContext,
    headers: &HeaderMap,
    invitation: &str,
    asks_again: bool,
) -> Result<(String, String), BeginError> {
    // An existing cookie is used again, so that logins in several tabs of one browser are all
    // valid.
    let cookie_value = match login_cookie(headers) {
        Some(value) => value.to_owned(),
        None => random_text(COOKIE_BYTES)?,
    };
    let now = context.clock.now();
    let state = context.state_keys.sign(&cookie_value, invitation, now)?;
    let address =
        login_dialog_url(&context.config, &state, asks_again).ok_or(BeginError::DialogUrl)?;
    // The cookie is Lax and not Strict, because Facebook's redirect is a navigation from another
    // site.
    let secure = if context.config.redirect_uri.starts_with("https://") {
        "; Secure"
    } else {
        ""
    };
    let path = context.config.public_path();
    let cookie = format!(
        "{COOKIE_NAME}={cookie_value}; Path={path}/facebook; Max-Age=3600; HttpOnly; SameSite=Lax{secure}"
    );
    Ok((address.into(), cookie))
}
