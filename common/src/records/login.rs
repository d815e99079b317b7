//! Logins that are under way.
//!
//! Invariants: the state that a browser carries to Facebook and back, and the cookie that binds the
//! state to the browser, are stored only as hashes; a state can be used only once.

use std::time::Duration;

use model::id::LoginId;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use crate::store::{RecordKey, RecordKind};
use model::hex::sha256_hex;

/// How long a person may take in Facebook's dialog.
pub const TTL: Duration = Duration::from_secs(600);
/// How long the token exchange may be missing after the code was used. After that the login counts
/// as interrupted.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the answer to a login can be requested again after the code was used or the login
/// failed.
pub const ANSWER_TTL: Duration = Duration::from_secs(3600);

/// A login that is under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Login {
    /// The hash of the browser's cookie.
    pub cookie_hash: String,
    /// When the login began, on this host's clock.
    pub began_at: HostTime,
    /// The stage of the login.
    #[serde(default)]
    pub stage: Stage,
}

/// The stage of a login.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The person has not returned from Facebook's dialog yet.
    #[default]
    Waiting,
    /// The code was used at this time, on this host's clock. The token exchange with the same id
    /// records the further stages.
    CodeUsed(HostTime),
    /// The login failed for good, with this reason.
    Failed(String),
}

/// Returns the id that a login and its token exchange share.
pub fn login_id(state: &str) -> LoginId {
    LoginId::parse(&sha256_hex(state))
        .unwrap_or_else(|| unreachable!("a hash has 64 hexadecimal digits"))
}

/// Returns the key of a login's record.
pub fn key(id: &LoginId) -> RecordKey {
    RecordKey::new(RecordKind::Login, id.as_str())
}
