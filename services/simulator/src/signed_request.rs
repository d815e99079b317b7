//! The `signed_request` that Facebook posts when a person removes the app or asks for the deletion
//! of their data.
//!
//! Source: "Data Deletion Request Callback" and the deauthorize callback of the app dashboard. The
//! signature covers the encoded payload.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::Serialize;
use serde_json::{Value, json};

use crate::bytes::hmac_sha256;
use crate::simulator::Simulator;

/// The maximum time that a callback may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The answer of a callback.
#[derive(Debug, Serialize)]
pub struct CallbackAnswer {
    /// The HTTP status; 0 if there was no answer.
    pub status: u16,
    /// The body as JSON, or as a string if it is not JSON; null if there was no answer.
    pub body: Value,
}

/// Returns the signed request with this payload.
pub fn sign(app_secret: &str, payload: &Value) -> String {
    let payload = BASE64URL.encode(payload.to_string());
    let signature = hmac_sha256(app_secret, payload.as_bytes());
    format!("{}.{payload}", BASE64URL.encode(signature))
}

/// Returns the payload about a person. `now` is a time of the simulated clock.
pub fn payload_for(user: &str, now: u64) -> Value {
    json!({"user_id": user, "algorithm": "HMAC-SHA256", "issued_at": now})
}

/// Posts a signed request about a person to a callback. Returns the answer.
pub(crate) async fn post(simulator: &Simulator, user: &str, callback: &str) -> CallbackAnswer {
    let form = [("signed_request", signed_request_for(simulator, user))];
    let request = simulator.http().post(callback).form(&form);
    match request.timeout(ANSWER_TIMEOUT).send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap_or_default();
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            CallbackAnswer { status, body }
        }
        Err(_) => CallbackAnswer {
            status: 0,
            body: Value::Null,
        },
    }
}

/// Returns a signed request about a person, issued at the present time of the simulated clock. Its
/// time is a later second than that of each token of the person, because a person does not remove an
/// app in the second in which they logged in.
pub fn signed_request_for(simulator: &Simulator, user: &str) -> String {
    let mut facebook = simulator.facebook();
    let of_user = facebook.tokens.values().filter(|token| token.user == user);
    let after_tokens = of_user.map(|token| token.issued_at + 1).max();
    let issued_at = facebook.now().max(after_tokens.unwrap_or_default());
    facebook.last_signed_request = facebook.last_signed_request.max(issued_at);
    sign(&facebook.app.secret, &payload_for(user, issued_at))
}
