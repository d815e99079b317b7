//! Deliveries of Facebook that are forwarded to another program, such as a bot.
//!
//! Invariants: the body and the headers of a delivery are in a queue or a record only in a sealed form.
//! The Pages of a delivery are in the clear, so that an erasure finds it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::PageId;
use crate::time::HostTime;

/// How long a delivery is kept that could not be forwarded. It contains what people wrote.
pub const FORWARD_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// A key that seals deliveries, itself sealed to the public key of the worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SealedKey {
    /// The id of the key of the worker.
    pub key_id: String,
    /// The sealed key, in URL-safe Base64.
    pub sealed: String,
}

/// A delivery as it waits in the queue, in a record or in a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardedDelivery {
    /// When the delivery was received, on this host's clock.
    pub received_at: HostTime,
    /// When an operator replayed the delivery, on this host's clock; `None` if nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_at: Option<HostTime>,
    /// The Pages of its entries.
    pub pages: Vec<PageId>,
    /// The key that seals it.
    pub key: SealedKey,
    /// The number of the delivery under this key, from which its nonce follows.
    pub number: u64,
    /// The sealed [`Envelope`], in Base64.
    pub sealed: String,
}

impl ForwardedDelivery {
    /// Returns the data that is authenticated together with the sealed envelope: what is in the clear and
    /// must belong to it.
    pub fn associated_data(received_at: HostTime, pages: &[PageId]) -> Vec<u8> {
        let pages: Vec<&str> = pages.iter().map(PageId::as_str).collect();
        format!("{received_at} {}", pages.join(" ")).into_bytes()
    }

    /// Returns the age from which the maximum age of a delivery counts: since it was received, or since
    /// an operator replayed it.
    pub fn age(&self, now: HostTime) -> Duration {
        self.replayed_at.unwrap_or(self.received_at).until(now)
    }

    /// Returns whether the time for which a delivery is kept has ended.
    pub fn has_expired(&self, now: HostTime) -> bool {
        self.received_at.until(now) > FORWARD_RETENTION
    }
}

/// What is sealed: the headers that are forwarded, and the body as Facebook sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The names and values of the headers.
    pub headers: Vec<(String, String)>,
    /// The bytes of the body.
    pub body: Vec<u8>,
}

impl Envelope {
    /// Returns the bytes that are sealed: the headers as one line of JSON, and the body.
    pub fn encode(headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let head = serde_json::to_vec(headers)
            .unwrap_or_else(|error| unreachable!("plain data is always encoded: {error}"));
        let mut bytes = Vec::with_capacity(head.len() + 1 + body.len());
        bytes.extend_from_slice(&head);
        bytes.push(b'\n');
        bytes.extend_from_slice(body);
        bytes
    }

    /// Parses bytes that [`Self::encode`] returned. Returns `None` if they have another form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        Some(Self {
            headers: serde_json::from_slice(&bytes[..end]).ok()?,
            body: bytes[end + 1..].to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn an_envelope_keeps_every_byte(body in proptest::collection::vec(proptest::num::u8::ANY, 0..300), value in "[ -~]{0,40}") {
            let bytes = Envelope::encode(&[("X-Hub-Signature-256", &value)], &body);
            let headers = vec![("X-Hub-Signature-256".to_owned(), value)];
            proptest::prop_assert_eq!(Envelope::decode(&bytes), Some(Envelope { headers, body }));
        }
    }
}
