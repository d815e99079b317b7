//! Logins under way. The state a browser carries to Facebook and back is kept only as a hash, bound
//! to the browser by a cookie that is kept only as a hash, and works once.

use std::time::Duration;

use model::id::GrantId;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use crate::store::{RecordKey, RecordKind};
use model::hex::sha256_hex;

/// How long a person may take in the dialog.
pub const TTL: Duration = Duration::from_secs(600);
/// How long the exchange of a code may take until there is a grant.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the answer to a completed login can be asked for again.
pub const ANSWER_TTL: Duration = Duration::from_secs(3600);

/// A login under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Login {
    /// Hash of the browser's cookie.
    pub cookie_hash: String,
    /// When it began, on our clock.
    pub began_at: HostTime,
    /// What became of it.
    #[serde(default)]
    pub stage: Stage,
}

/// What became of a login.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing yet.
    #[default]
    Waiting,
    /// Its code was taken then: the grant of the same name has the rest.
    CodeUsed(HostTime),
    /// It failed for good.
    Failed(String),
}

/// The id shared by the login and the grant of a state.
pub fn login_id(state: &str) -> GrantId {
    GrantId::parse(&sha256_hex(state))
        .unwrap_or_else(|| unreachable!("a hash has 64 hexadecimal digits"))
}

/// The record of a login.
pub fn key(id: &GrantId) -> RecordKey {
    RecordKey::new(RecordKind::Login, id.as_str())
}
