//! Probes: self-signed webhooks for the id 0 that check the pipeline.
//!
//! Ingress posts a probe to itself. The record that the worker writes shows that signature check,
//! queue, worker and store work.

use std::time::Duration;

use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::put_write;
use crate::store::{RecordKey, RecordKind, RecordWrite};

/// How long the record of a probe is stored.
const TTL: Duration = Duration::from_secs(600);

/// A probe that arrived at the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// When the worker handled the probe, on this host's clock.
    pub arrived_at: HostTime,
}

/// Returns the key of a probe's record. `nonce` is the random text in the probe.
pub fn key(nonce: &str) -> RecordKey {
    RecordKey::new(RecordKind::Probe, nonce)
}

/// Returns the write that records the arrival of a probe.
pub fn arrival_write(nonce: &str, at: HostTime) -> RecordWrite {
    put_write(key(nonce), &Probe { arrived_at: at }, None, Some(TTL))
}
