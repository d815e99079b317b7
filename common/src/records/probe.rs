//! Probes: webhooks for the id 0 that we sign and post to ourselves, to see them come out of the
//! worker. What is proven is the whole way: signature, queue, worker, store.

use std::time::Duration;

use model::time::Millis;
use serde::{Deserialize, Serialize};

use super::put;
use crate::store::{Key, Kind, RecordWrite};

/// How long the proof stands.
const TTL: Duration = Duration::from_secs(600);

/// The proof that a probe came out of the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// When, on our clock.
    pub at: Millis,
}

/// The record of a probe.
pub fn key(nonce: &str) -> Key {
    Key::new(Kind::Probe, nonce)
}

/// The write that proves it.
pub fn arrived(nonce: &str, at: Millis) -> RecordWrite {
    put(key(nonce), &Probe { at }, None, Some(TTL))
}
