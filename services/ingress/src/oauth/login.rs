//! `GET /facebook/login`: off to the dialog, with a state only this browser can bring back.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use common::config::Login as Who;
use common::custody::random_text;
use common::graph::calls::dialog;
use common::invitation;
use common::records::login::{self, Login, Stage};
use common::records::{put, write};
use common::telemetry::Metrics;

use super::{COOKIE, OAuth, answer, cookie};
use crate::Parts;

/// Random bytes of a state and of a cookie.
const RANDOM: usize = 32;

/// Begins a login.
pub(crate) async fn begin(
    State(parts): State<Arc<Parts>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let oauth = &parts.oauth;
    if !is_invited(oauth, query.ok()) {
        Metrics::count(&oauth.metrics.logins, "not_invited");
        let text = "Logins here need an invitation that has not ended: ask whoever runs this for a new link.";
        return answer::refusal(&headers, StatusCode::FORBIDDEN, "not_invited", text);
    }
    if !oauth.crowd.admits(oauth.clock.now()) {
        Metrics::count(&oauth.metrics.logins, "too_many");
        let text = "Too many people are logging in right now. Please try again in a moment.";
        return answer::refusal(&headers, StatusCode::TOO_MANY_REQUESTS, "too_many", text);
    }
    match prepare(oauth, &headers).await {
        Ok((address, cookie)) => {
            Metrics::count(&oauth.metrics.logins, "begun");
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
            given.any(|(_, text)| invitation::is_good(secret, text, oauth.clock.now()))
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
    let address = dialog(&oauth.config, &state).ok_or("PAGESYNC_DIALOG_URL is no base")?;
    let login = Login {
        browser: login::hash(&browser),
        begun: oauth.clock.now(),
        stage: Stage::Waiting,
    };
    let key = login::key(&login::id(&state));
    let kept = write(
        &*oauth.store,
        vec![put(key, &login, Some(0), Some(login::TTL))],
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
