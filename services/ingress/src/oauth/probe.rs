//! The webhook test of a login: a webhook for the id 0, signed by us, posted to our own public
//! listener, looked for behind the worker. It proves the whole way and touches no Page.

use std::time::Duration;

use common::records::{load_record, probe};
use common::sealing::random_text;
use hmac::{Hmac, KeyInit as _, Mac as _};
use model::hex::hex;
use model::webhook::PROBE_PREFIX;
use secrecy::ExposeSecret as _;
use serde_json::json;
use sha2::Sha256;

use super::context::OAuth;

/// How long the probe may take from our listener to the store.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Sends a probe and waits for it. `Err` says where it was lost.
pub(super) async fn test(oauth: &OAuth) -> Result<(), String> {
    let nonce = random_text(16).map_err(|error| error.to_string())?;
    let seconds = oauth.clock.now().0 / 1000;
    let change = json!({"field": "name", "value": format!("{PROBE_PREFIX}{nonce}")});
    let entry = json!({"id": "0", "time": seconds, "changes": [change]});
    let body = json!({"object": "page", "entry": [entry]}).to_string();
    let secret = oauth
        .config
        .app_secrets
        .first()
        .ok_or("there is no app secret")?;
    let mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes())
        .map_err(|error| error.to_string())?;
    let tag = mac.chain_update(&body).finalize().into_bytes();
    let signature = format!("sha256={}", hex(&tag));
    let request = oauth
        .http
        .post(format!("http://{}/facebook/webhook", oauth.own))
        .timeout(PATIENCE)
        .header("content-type", "application/json")
        .header("x-hub-signature-256", signature)
        .body(body);
    let answer = request.send().await;
    let status = answer
        .map_err(|_| "our own listener does not answer".to_owned())?
        .status();
    if status != reqwest::StatusCode::OK {
        return Err(format!(
            "ingress answered {status}: the queue does not take webhooks"
        ));
    }
    let arrived = async {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            let found = load_record::<probe::Probe>(&*oauth.store, &probe::key(&nonce)).await;
            if matches!(found, Ok(Some(_))) {
                return;
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, arrived).await;
    waited.map_err(|_| {
        "the queue took it, and no worker brought it to the store within 5 s".to_owned()
    })
}
