//! `GET /facebook/login`: off to the dialog, with a state only this browser can bring back.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use common::config::LoginPolicy as Who;
use common::graph::calls::login_dialog_url;
use common::invitation;
use common::records::login::{self, Login, Stage};
use common::records::{put_write, write_records};
use common::sealing::random_text;

use model::hex::sha256_hex;

use super::answer;
use super::context::OAuth;
use super::cookie::{COOKIE, cookie};
use crate::context::Context;

/// Random bytes of a state and of a cookie.
const RANDOM: usize = 32;

/// Begins a login.
pub(crate) async fn begin(
    State(context): State<Arc<Context>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let oauth = &context.oauth;
    if !is_invited(oauth, query.ok()) {
        oauth.metrics.logins.count("not_invited");
        let text = "Logins here need an invitation that has not ended: ask whoever runs this for a new link.";
        return answer::refusal(&headers, StatusCode::FORBIDDEN, "not_invited", text);
    }
    if !oauth.crowd.admits(oauth.clock.now()) {
        oauth.metrics.logins.count("too_many");
        let text = "Too many people are logging in right now. Please try again in a moment.";
        return answer::refusal(&headers, StatusCode::TOO_MANY_REQUESTS, "too_many", text);
    }
    match prepare(oauth, &headers).await {
        Ok((address, cookie)) => {
            oauth.metrics.logins.count("begun");
            let headers = [
                (header::LOCATION, address),
                (header::SET_COOKIE, cookie),
                (header::CACHE_CONTROL, "no-store".to_owned()),
            ];
            (StatusCode::FOUND, headers).into_response()
        }
        Err(reason) => {
            tracing::error!(reason, "a login cannot begin");
            let text = "Logins are not possible right now. Please try again in a minute.";
            answer::refusal(
                &headers,
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                text,
            )
        }
    }
}

fn is_invited(oauth: &OAuth, query: Option<Query<Vec<(String, String)>>>) -> bool {
    match (oauth.config.login, &oauth.config.state_secret) {
        (Who::Open, _) => true,
        (Who::Invited, None) => false,
        (Who::Invited, Some(secret)) => query.is_some_and(|Query(pairs)| {
            let mut given = pairs.iter().filter(|(name, _)| name == "invitation");
            given.any(|(_, text)| invitation::is_valid(secret, text, oauth.clock.now()))
        }),
    }
}

/// Where to send the browser, and the cookie it takes along.
async fn prepare(oauth: &OAuth, headers: &HeaderMap) -> Result<(String, String), String> {
    let state = random_text(RANDOM).map_err(|error| error.to_string())?;
    // Logins in two tabs of one browser share its cookie.
    let browser = match cookie(headers) {
        Some(browser) => browser.to_owned(),
        None => random_text(RANDOM).map_err(|error| error.to_string())?,
    };
    let address =
        login_dialog_url(&oauth.config, &state).ok_or("PAGESYNC_DIALOG_URL is no base")?;
    let login = Login {
        cookie_hash: sha256_hex(&browser),
        began_at: oauth.clock.now(),
        stage: Stage::Waiting,
    };
    let key = login::key(&login::login_id(&state));
    let kept = write_records(
        &*oauth.store,
        vec![put_write(key, &login, Some(0), Some(login::TTL))],
    )
    .await;
    kept.map_err(|error| error.to_string())?;
    // Lax, not Strict: the way back from Facebook is a navigation from another site.
    let secure = if oauth.config.redirect_uri.starts_with("https://") {
        "; Secure"
    } else {
        ""
    };
    let cookie =
        format!("{COOKIE}={browser}; Path=/facebook; Max-Age=3600; HttpOnly; SameSite=Lax{secure}");
    Ok((address.into(), cookie))
}
