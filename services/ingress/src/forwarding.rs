//! The deliveries that the worker forwards to another program.
//!
//! Invariant: a delivery leaves this module only sealed. What is forwarded has the bytes and the headers
//! of Facebook, so that the other program can verify the signature itself.

use axum::http::HeaderMap;
use common::config::forward::{ForwardConfig, ForwardedDeliveries};
use common::delivery_sealing::DeliverySealer;
use common::sealer::Sealer;
use common::sealing::SealingError;
use model::job::Job;
use model::time::HostTime;
use model::webhook::ParsedWebhook;

/// The headers that are forwarded.
const HEADERS: [&str; 5] = [
    "X-Hub-Signature",
    "X-Hub-Signature-256",
    "Content-Type",
    "User-Agent",
    "Facebook-API-Version",
];

/// Chooses and seals the deliveries that are forwarded.
#[derive(Debug)]
pub struct Forwarding {
    deliveries: ForwardedDeliveries,
    sealer: DeliverySealer,
}

impl Forwarding {
    /// Returns the forwarding of a configuration. `sealer` has the key of the worker.
    pub fn new(config: &ForwardConfig, sealer: Sealer) -> Self {
        Self {
            deliveries: config.deliveries,
            sealer: DeliverySealer::new(sealer),
        }
    }

    /// Returns whether a delivery is forwarded.
    pub(crate) fn is_forwarded(&self, parsed: &ParsedWebhook) -> bool {
        match self.deliveries {
            ForwardedDeliveries::All => true,
            ForwardedDeliveries::Unhandled => parsed.has_unhandled_part(),
        }
    }

    /// Returns the job that forwards a delivery. Fails if it cannot be sealed.
    pub(crate) fn job(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        parsed: &ParsedWebhook,
        received_at: HostTime,
    ) -> Result<Job, SealingError> {
        let headers: Vec<(&str, &str)> = HEADERS
            .iter()
            .filter_map(|name| Some((*name, headers.get(*name)?.to_str().ok()?)))
            .collect();
        let pages = parsed.pages.iter().cloned().collect();
        let sealed = self.sealer.seal(&headers, body, pages, received_at)?;
        Ok(Job::Forward(sealed))
    }
}
