//! Grants: logins being completed. Ingress seals the short-lived token here, the worker exchanges it
//! and leaves only what became of it.

use std::time::Duration;

use model::id::{GrantId, UserId};
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use crate::sealing::SealedToken;
use crate::store::{RecordKey, RecordKind};

/// How long a grant stands, its short-lived token or its result.
pub const TTL: Duration = Duration::from_secs(3600);

/// A grant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Grant {
    /// When the code was exchanged, on our clock.
    pub began_at: HostTime,
    /// How often the exchange for a long-lived token failed.
    #[serde(default)]
    pub failures: u32,
    /// Where it stands.
    pub stage: Stage,
}

/// Where a grant stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The short-lived token waits to be exchanged.
    Sealed(SealedToken),
    /// It was, and this person is connected.
    Connected(UserId),
    /// It cannot be.
    Failed(String),
}

/// The record of a grant.
pub fn key(id: &GrantId) -> RecordKey {
    RecordKey::new(RecordKind::Grant, id.as_str())
}

/// The name its token is sealed for.
pub fn seal_name(id: &GrantId) -> String {
    format!("grant:{id}")
}
