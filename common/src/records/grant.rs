//! Grants: logins whose token the worker exchanges.
//!
//! Ingress stores the sealed short-lived token in the grant of a login. The worker exchanges it for
//! a long-lived token, creates the connection, and replaces the token in the grant with the result.

use std::time::Duration;

use model::id::{GrantId, UserId};
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use crate::sealing::SealedToken;
use crate::store::{RecordKey, RecordKind};

/// How long a grant is stored after it was last written.
pub const TTL: Duration = Duration::from_secs(3600);

/// The exchange of the token of one login.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Grant {
    /// When ingress exchanged the code for the short-lived token, on this host's clock.
    pub began_at: HostTime,
    /// How many exchanges for a long-lived token failed.
    #[serde(default)]
    pub failures: u32,
    /// The stage of the exchange.
    pub stage: Stage,
}

/// The stage of a grant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The short-lived token is not exchanged yet.
    Sealed(SealedToken),
    /// The token was exchanged, and this person has a connection.
    Connected(UserId),
    /// The exchange failed for good, with this reason.
    Failed(String),
}

/// Returns the key of a grant's record.
pub fn key(id: &GrantId) -> RecordKey {
    RecordKey::new(RecordKind::Grant, id.as_str())
}

/// Returns the name for which the token of a grant is sealed.
pub fn seal_name(id: &GrantId) -> String {
    format!("grant:{id}")
}
