//! The handshake: Facebook asks the callback to echo a challenge before it sends anything.
//!
//! Source: "Getting Started" of Graph API webhooks. The answer is the bare challenge as plain text;
//! quotes around it, as a JSON framework adds them, fail the handshake.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::context::Context;

/// Longest challenge that is echoed; Facebook's are about ten digits.
const MAX_CHALLENGE: usize = 64;

/// `GET /facebook/webhook`.
pub(crate) async fn verify(
    State(context): State<Arc<Context>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let one = |name: &str| {
        let mut values = query
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str());
        values.next().filter(|_| values.next().is_none())
    };
    // Hashed, so that not even the length can be measured.
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    let token = one("hub.verify_token").unwrap_or_default();
    let is_ours = digest(token).ct_eq(&digest(context.verify_token.expose_secret()));
    if one("hub.mode") != Some("subscribe") || !bool::from(is_ours) {
        context.wrong_token_log.count(context.clock.now());
        return StatusCode::FORBIDDEN.into_response();
    }
    let harmless = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match one("hub.challenge") {
        Some(challenge)
            if (1..=MAX_CHALLENGE).contains(&challenge.len())
                && challenge.chars().all(harmless) =>
        {
            let headers = [
                (header::CONTENT_TYPE, "text/plain"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, challenge.to_owned()).into_response()
        }
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}
