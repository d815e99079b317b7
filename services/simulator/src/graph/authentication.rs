//! Determines the caller of a call of Graph from its access token.

use axum::http::{HeaderMap, header};

use super::call::Caller;
use super::parameters::Parameters;
use super::refusal::ErrorReply;
use crate::bytes::hmac_hex;
use crate::errors::SESSION_OVER;
use crate::facebook::Facebook;
use crate::simulator::Simulator;

/// How long a proof with a time is valid, in seconds. Source: "Securing Graph API calls".
const PROOF_SECONDS: u64 = 300;

/// Returns the caller that the access token of a call belongs to.
///
/// Fails if the token is unknown or invalid, or if its `appsecret_proof` is wrong or missing.
pub(super) fn authenticate(
    simulator: &Simulator,
    headers: &HeaderMap,
    parameters: &Parameters,
) -> Result<Caller, ErrorReply> {
    let Some(text) = credentials(headers, parameters) else {
        return Ok(Caller::Anonymous);
    };
    let text = text.as_str();
    let facebook = simulator.facebook();
    if text == facebook.app.access_token() {
        return Ok(Caller::App);
    }
    let Some(token) = facebook.tokens.get(text).cloned() else {
        let message = "Invalid OAuth access token - Cannot parse access token";
        return Err(ErrorReply::oauth(190, None, message));
    };
    if let Some(subcode) = token.refusal_subcode(facebook.now()) {
        let message = format!("{SESSION_OVER} ({subcode})");
        return Err(ErrorReply::oauth(190, Some(subcode), &message));
    }
    check_proof(&facebook, text, parameters)?;
    Ok(Caller::Token(token))
}

/// Returns the text of the access token of a call, or `None` if it has none.
pub(super) fn credentials(headers: &HeaderMap, parameters: &Parameters) -> Option<String> {
    let in_parameters = || parameters.get("access_token").map(String::as_str);
    bearer(headers)
        .or_else(in_parameters)
        .map(ToOwned::to_owned)
}

/// Returns the token in the header `Authorization`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    text.strip_prefix("Bearer ")
        .or_else(|| text.strip_prefix("OAuth "))
}

/// Fails if the `appsecret_proof` of a token is wrong, or missing where it is required.
fn check_proof(
    facebook: &Facebook,
    token: &str,
    parameters: &Parameters,
) -> Result<(), ErrorReply> {
    // With `appsecret_time` the proof is one of the token and the time, and is valid for five minutes.
    let time = parameters.get("appsecret_time");
    let signed = time.map_or_else(|| token.to_owned(), |time| format!("{token}|{time}"));
    let is_expired = time.is_some_and(|time| {
        let sent_at: u64 = time.parse().unwrap_or(0);
        facebook.now() > sent_at + PROOF_SECONDS
    });
    let message = match parameters.get("appsecret_proof") {
        Some(proof)
            if is_expired || *proof != hmac_hex(&facebook.app.secret, signed.as_bytes()) =>
        {
            "Invalid appsecret_proof provided in the API argument"
        }
        None if facebook.graph_faults.require_proof => {
            "API calls from the server require an appsecret_proof argument"
        }
        _ => return Ok(()),
    };
    let error_type = "GraphMethodException";
    Err(ErrorReply::new(400, error_type, 100, None, message))
}
