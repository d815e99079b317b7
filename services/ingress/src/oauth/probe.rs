//! The webhook test of a login: posts a probe, a signed webhook for the id 0, to the public
//! listener of this process, and waits until a worker has stored it.
//!
//! The probe is processed like every webhook, by ingress, queue, worker and store, but it changes
//! no Page.

use std::time::Duration;

use common::records::{load_record, probe};
use common::sealing::random_text;
use common::signing::hmac_sha256;
use hmac::Mac as _;
use model::hex::hex;
use model::webhook::PROBE_PREFIX;
use reqwest::StatusCode;
use serde_json::json;

use super::context::LoginContext;

/// How long the answer of the listener may take, and also how long a worker may then take to store
/// the probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The time between two reads of the store.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The reason why a probe did not reach the store. The text is the member `message` of the webhook
/// test.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// The operating system returned no random bytes.
    #[error("the operating system returned no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// No app secret is configured, so the probe cannot be signed.
    #[error("FACEBOOK_APP_SECRET is missing")]
    NoAppSecret,
    /// The public listener did not answer within [`PROBE_TIMEOUT`].
    #[error("the public listener of ingress does not answer")]
    NoAnswer,
    /// Ingress answered with this status instead of 200.
    #[error("ingress answered {0}: the queue does not accept webhooks")]
    Refused(StatusCode),
    /// No worker stored the probe within [`PROBE_TIMEOUT`].
    #[error("the queue accepted the webhook, but no worker stored it within 5 s")]
    NotStored,
}

/// Sends a probe and waits until it is stored.
pub(super) async fn run(context: &LoginContext) -> Result<(), ProbeError> {
    let nonce = random_text(16)?;
    let seconds = context.clock.now().0 / 1000;
    let change = json!({"field": "name", "value": format!("{PROBE_PREFIX}{nonce}")});
    let entry = json!({"id": "0", "time": seconds, "changes": [change]});
    let body = json!({"object": "page", "entry": [entry]}).to_string();
    let secret = context
        .config
        .app_secrets
        .first()
        .ok_or(ProbeError::NoAppSecret)?;
    let tag = hmac_sha256(secret)
        .chain_update(&body)
        .finalize()
        .into_bytes();
    let signature = format!("sha256={}", hex(&tag));
    let request = context
        .http
        .post(format!(
            "http://{}/facebook/webhook",
            context.public_address
        ))
        .timeout(PROBE_TIMEOUT)
        .header("content-type", "application/json")
        .header("x-hub-signature-256", signature)
        .body(body);
    let answer = request.send().await.map_err(|_| ProbeError::NoAnswer)?;
    let status = answer.status();
    if status != StatusCode::OK {
        return Err(ProbeError::Refused(status));
    }
    let stored = async {
        let mut interval = tokio::time::interval(CHECK_INTERVAL);
        loop {
            interval.tick().await;
            let found = load_record::<probe::Probe>(&*context.store, &probe::key(&nonce)).await;
            if matches!(found, Ok(Some(_))) {
                return;
            }
        }
    };
    tokio::time::timeout(PROBE_TIMEOUT, stored)
        .await
        .map_err(|_| ProbeError::NotStored)
}
