//! Sends one message, signed by the Standard Webhooks specification.
//!
//! Invariant: a message that is sent again has the same id, so that a receiver can recognize it. An error
//! contains no address.
//!
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>,
//! versions of 2024 and later.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::clock::Clock;
use common::config::destination::{DestinationConfig, secret_bytes};
use common::posting::{self, PostError};
use common::signing::hmac_sha256_with_key;
use common::store::Cursor;
use common::timestamp::rfc3339;
use hmac::Mac as _;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value as Json, json};

use crate::changes::feed::EncodedChange;

/// A message before it is signed.
#[derive(Debug, Clone)]
pub struct Message {
    /// The id.
    id: String,
    /// The type of the event.
    kind: &'static str,
    /// The member `data`.
    data: String,
}

impl Message {
    /// Returns the message of a change. A thin one has no values.
    pub(crate) fn of_change(change: &EncodedChange, is_thin: bool) -> Self {
        let mut data = String::from_utf8_lossy(&change.json).into_owned();
        if is_thin && let Ok(mut parsed) = serde_json::from_str::<Json>(&data) {
            parsed["changes"] = Json::Null;
            data = parsed.to_string();
        }
        Self {
            // Dots separate the signed parts.
            id: format!("change-{}-{}", change.cursor.epoch, change.cursor.position),
            kind: "page.changed",
            data,
        }
    }

    /// Returns the message that entries after the cursor `from` are missing, and that the posts go on
    /// after the cursor `to`.
    pub(crate) fn of_gap(from: &str, to: &Cursor) -> Self {
        Self {
            id: format!("gap-{}", from.replace('.', "-")),
            kind: "changes.missing",
            data: json!({"cursor": to.to_string()}).to_string(),
        }
    }

    /// Returns a message that `destination test` sends.
    pub fn of_test(now_millis: u64) -> Self {
        Self {
            id: format!("test-{now_millis}"),
            kind: "pagesync.test",
            data: json!({"text": "pagesync can post to this address."}).to_string(),
        }
    }
}

/// Sends messages to one destination.
#[derive(Debug)]
pub struct Poster {
    client: reqwest::Client,
    url: SecretString,
    secret: SecretString,
    authorization: Option<SecretString>,
    clock: Clock,
}

impl Poster {
    /// Returns the poster of a destination. Fails if the HTTP client cannot be built.
    pub fn new(config: &DestinationConfig, clock: Clock) -> reqwest::Result<Self> {
        Ok(Self {
            client: posting::client()?,
            url: config.url.clone(),
            secret: config.secret.clone(),
            authorization: config.authorization.clone(),
            clock,
        })
    }

    /// Sends a message. Fails unless the destination accepts it.
    pub async fn post(&self, message: &Message) -> Result<(), PostError> {
        let now = self.clock.now();
        let timestamp = (now.0 / 1000).to_string();
        let body = format!(
            r#"{{"type":"{}","timestamp":"{}","data":{}}}"#,
            message.kind,
            rfc3339(now),
            message.data
        );
        let signature = self.signature(&message.id, &timestamp, &body);
        let mut request = self
            .client
            .post(self.url.expose_secret())
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("pagesync/", env!("CARGO_PKG_VERSION")))
            .body(body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.expose_secret());
        }
        posting::send(request).await
    }

    fn signature(&self, id: &str, timestamp: &str, body: &str) -> String {
        let secret = secret_bytes(self.secret.expose_secret());
        let mac = hmac_sha256_with_key(&secret).chain_update(format!("{id}.{timestamp}.{body}"));
        format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
    }
}
