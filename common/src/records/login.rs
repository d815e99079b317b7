//! Logins under way. The state a browser carries to Facebook and back is kept only as a hash, bound
//! to the browser by a cookie that is kept only as a hash, and works once.

use std::fmt::Write as _;
use std::time::Duration;

use model::id::GrantId;
use model::time::Millis;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::store::{Key, Kind};

/// How long a person may take in the dialog.
pub const TTL: Duration = Duration::from_secs(600);
/// How long the exchange of a code may take until there is a grant.
pub const EXCHANGE: Duration = Duration::from_secs(60);
/// How long the answer to a completed login can be asked for again.
pub const ANSWER_TTL: Duration = Duration::from_secs(3600);

/// A login under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Login {
    /// Hash of the browser's cookie.
    pub browser: String,
    /// When it began, on our clock.
    pub begun: Millis,
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
    Taken(Millis),
    /// It failed for good.
    Failed(String),
}

/// The hash of a state or a cookie: 64 hexadecimal digits.
pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .fold(String::new(), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// The id shared by the login and the grant of a state.
pub fn id(state: &str) -> GrantId {
    GrantId::parse(&hash(state)).unwrap_or_else(|| unreachable!("a hash has 64 hexadecimal digits"))
}

/// The record of a login.
pub fn key(id: &GrantId) -> Key {
    Key::new(Kind::Login, id.as_str())
}
