//! Probes: self-signed webhooks for the id 0 that check the pipeline.
//!
//! Ingress posts a probe to itself. The record that the worker writes shows that signature check,
//! queue, worker and store work.

use std::time::Duration;

use model::id::LoginId;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::put_write;
use crate::store::{RecordKey, RecordKind, RecordWrite};

/// How long the record of a probe is stored.
const TTL: Duration = Duration::from_secs(3600);
/// How long the record of a webhook test is stored.
const TEST_TTL: Duration = Duration::from_secs(3600);

/// A probe that arrived at the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// When the worker handled the probe, on this host's clock.
    pub arrived_at: HostTime,
}

/// The webhook test of a login, which sends one probe. The nonce of the probe is the id of the login.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WebhookTest {
    /// When it began, on this host's clock.
    pub began_at: HostTime,
    /// The reason why the probe could not be sent; `None` if it was sent, or is being sent.
    pub problem: Option<String>,
}

/// Returns the key of the record of a login's webhook test.
pub fn test_key(id: &LoginId) -> RecordKey {
    RecordKey::new(RecordKind::WebhookTest, id.as_str())
}

/// Returns the write of a login's webhook test. With 0 as `expected`, only one of several callers
/// begins it.
pub fn test_write(id: &LoginId, test: &WebhookTest, expected: Option<u64>) -> RecordWrite {
    put_write(test_key(id), test, expected, Some(TEST_TTL))
}

/// Returns the key of a probe's record. `nonce` is the random text in the probe.
pub fn key(nonce: &str) -> RecordKey {
    RecordKey::new(RecordKind::Probe, nonce)
}

/// Returns the write that records the arrival of a probe.
pub fn arrival_write(nonce: &str, at: HostTime) -> RecordWrite {
    put_write(key(nonce), &Probe { arrived_at: at }, None, Some(TTL))
}
