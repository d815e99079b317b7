//! Logins whose browser has returned from Facebook's dialog.
//!
//! Nothing is stored when a login begins. The callback inserts the record of its login on the
//! condition that there is none.
//!
//! Invariants: a state can be used only once, and its record is stored for longer than the state is
//! valid; the state is stored only as a hash.

use std::time::Duration;

use model::id::LoginId;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use crate::store::{RecordKey, RecordKind};
use model::hex::sha256_hex;

/// How long the token exchange may be missing after the code was used. After that the login counts
/// as interrupted.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the answer to a login can be requested again. A state is valid for ten minutes, so this
/// also covers any difference between the clocks of the hosts that matters.
pub const ANSWER_TTL: Duration = Duration::from_secs(3600);

/// A login whose browser has returned from the dialog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Login {
    /// The stage of the login.
    pub stage: Stage,
}

/// The stage of a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
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
