//! What Facebook posts when a person removes the app, or asks for their data to be deleted: a form
//! with a `signed_request`.
//!
//! Source: "Data Deletion Request Callback" and the deauthorize callback of the app dashboard; the
//! signature is over the encoded payload.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::Simulator;

/// What the callback answered.
#[derive(Debug, Serialize)]
pub struct Answered {
    /// Its status; 0: nothing answered.
    pub status: u16,
    /// Its body, as JSON if it is.
    pub body: Value,
}

/// A signed request with this payload.
pub fn sign(app_secret: &str, payload: &Value) -> String {
    let payload = BASE64URL.encode(payload.to_string());
    let mac = Hmac::<Sha256>::new_from_slice(app_secret.as_bytes());
    let mac = mac.map(|mac| mac.chain_update(payload.as_bytes()).finalize());
    let signature = mac.map(|mac| mac.into_bytes().to_vec()).unwrap_or_default();
    format!("{}.{payload}", BASE64URL.encode(signature))
}

/// The signed request about a person, made now.
pub fn about(simulator: &Simulator, user: &str) -> String {
    let facebook = simulator.facebook();
    let payload = json!({"user_id": user, "algorithm": "HMAC-SHA256", "issued_at": facebook.now()});
    sign(&facebook.app.secret, &payload)
}

/// Posts it.
pub(crate) async fn post(simulator: &Simulator, user: &str, callback: &str) -> Answered {
    let form = [("signed_request", about(simulator, user))];
    let request = simulator.http().post(callback).form(&form);
    let answer = request.timeout(Duration::from_secs(10)).send().await;
    match answer {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap_or_default();
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            Answered { status, body }
        }
        Err(_) => Answered {
            status: 0,
            body: Value::Null,
        },
    }
}
