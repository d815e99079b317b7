//! Sends one delivery to the program.
//!
//! Invariant: the body and the headers of Facebook are sent unchanged. What pagesync adds has names that
//! begin with `Pagesync-`.

use common::config::forward::ForwardConfig;
use common::posting::{self, PostError};
use common::timestamp::rfc3339;
use model::forward::Envelope;
use model::hex::hex;
use model::time::HostTime;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

/// Sends deliveries to the program.
#[derive(Debug)]
pub(super) struct Sender {
    client: reqwest::Client,
    url: SecretString,
}

impl Sender {
    /// Returns the sender of a configuration. Fails if the HTTP client cannot be built.
    pub(super) fn new(config: &ForwardConfig) -> Result<Self, reqwest::Error> {
        Ok(Self {
            client: posting::client()?,
            url: config.url.clone(),
        })
    }

    /// Sends a delivery that was received at `received_at`. Fails unless the program accepts it.
    pub(super) async fn send(
        &self,
        envelope: Envelope,
        received_at: HostTime,
    ) -> Result<(), PostError> {
        let id = hex(&Sha256::digest(&envelope.body));
        let mut request = self.client.post(self.url.expose_secret());
        for (name, value) in &envelope.headers {
            request = request.header(name, value);
        }
        let request = request
            .header("Pagesync-Delivery", id)
            .header("Pagesync-Received-At", rfc3339(received_at))
            .body(envelope.body);
        posting::send(request).await
    }
}
