//! Probes: webhooks for the id 0 that we sign and post to ourselves, to see them come out of the
//! worker. What is proven is the whole way: signature, queue, worker, store.

use std::time::Duration;

use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::put_write;
use crate::store::{RecordKey, RecordKind, RecordWrite};

/// How long the proof stands.
const TTL: Duration = Duration::from_secs(600);

/// The proof that a probe came out of the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// When, on our clock.
    pub arrived_at: HostTime,
}

/// The record of a probe.
pub fn key(nonce: &str) -> RecordKey {
    RecordKey::new(RecordKind::Probe, nonce)
}

/// The write that proves it.
pub fn arrival_write(nonce: &str, at: HostTime) -> RecordWrite {
    put_write(key(nonce), &Probe { arrived_at: at }, None, Some(TTL))
}
