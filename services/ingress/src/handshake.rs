//! The webhook handshake: Facebook sends webhooks to an address only after the address has echoed a
//! challenge.
//!
//! Source: "Getting Started" of Graph API webhooks. The answer is the bare challenge as plain text.
//! If a JSON framework puts the challenge in quotes, the handshake fails.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::http::PeerAddress;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::client::is_trusted;
use crate::context::Context;

/// The longest challenge that is echoed, in bytes. Facebook's challenges have about ten digits.
const MAX_CHALLENGE: usize = 64;

/// The query parameter with which `doctor` asks for [`UNDECLARED_PEER`].
pub const PEER_QUERY: &str = "pagesync.peer";
/// The header with the address from which the request arrived, unless it is that of a trusted
/// proxy. Only who knows the verify token gets it.
pub const UNDECLARED_PEER: HeaderName = HeaderName::from_static("pagesync-undeclared-peer");

/// Handles `GET /facebook/webhook`.
pub(crate) async fn verify(
    State(context): State<Arc<Context>>,
    Extension(PeerAddress(peer)): Extension<PeerAddress>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let single_value = |name: &str| {
        let mut values = query
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str());
        values.next().filter(|_| values.next().is_none())
    };
    // Hashes have equal lengths, so the time of the comparison does not reveal the token's length.
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    let token = single_value("hub.verify_token").unwrap_or_default();
    let is_expected = digest(token).ct_eq(&digest(context.verify_token.expose_secret()));
    if single_value("hub.mode") != Some("subscribe") || !bool::from(is_expected) {
        context.refused_handshakes.count(context.clock.now());
        return StatusCode::FORBIDDEN.into_response();
    }
    let is_safe = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match single_value("hub.challenge") {
        Some(challenge)
            if (1..=MAX_CHALLENGE).contains(&challenge.len()) && challenge.chars().all(is_safe) =>
        {
            let headers = [
                (header::CONTENT_TYPE, "text/plain"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            let mut response = (headers, challenge.to_owned()).into_response();
            let asks = single_value(PEER_QUERY).is_some();
            if asks && !is_trusted(peer, context.login.trusted_proxies()) {
                let address = HeaderValue::from_str(&peer.to_canonical().to_string());
                response
                    .headers_mut()
                    .extend(address.map(|address| (UNDECLARED_PEER, address)));
            }
            response
        }
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}
