//! The exchange of a login's short-lived token for a long-lived one.
//!
//! Ingress stores the sealed short-lived token. The worker exchanges it for a long-lived token,
//! creates the connection, and replaces the short-lived token by the person or the error.

use std::time::Duration;

use model::id::{LoginId, Subject, UserId};
use model::polling::LOGIN_PRECEDENCE;
use model::queue_name::QueueName;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::put_write;
use crate::invitation::Invitation;
use crate::sealing::SealedToken;
use crate::store::{Commit, DueWrite, RecordKey, RecordKind};

/// How long a token exchange is stored after it was last written.
pub const TTL: Duration = Duration::from_secs(3600);

/// The exchange of the token of one login.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenExchange {
    /// When ingress exchanged the code for the short-lived token, on this host's clock.
    pub code_exchanged_at: HostTime,
    /// How many attempts to get a long-lived token have failed.
    #[serde(default)]
    pub failures: u32,
    /// The stage of the exchange.
    pub stage: Stage,
    /// Whether the token may be one that never expires, such as that of a system user, which is not
    /// exchanged.
    #[serde(default)]
    pub may_never_expire: bool,
    /// The invitation with which the login began; `None` if it needed none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<Invitation>,
}

/// The stage of a token exchange.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The short-lived token, which has not been exchanged yet.
    Sealed(SealedToken),
    /// The token was exchanged, and the connection of this person was created or renewed.
    Connected(UserId),
    /// The exchange failed for good, with this reason.
    Failed(String),
}

impl TokenExchange {
    /// Returns the exchange of a token that was sealed at `now`.
    pub fn new(sealed: SealedToken, now: HostTime, may_never_expire: bool) -> Self {
        Self {
            code_exchanged_at: now,
            failures: 0,
            stage: Stage::Sealed(sealed),
            may_never_expire,
            invitation: None,
        }
    }
}

/// Returns the commit that begins an exchange, which is due at once, before the polls of other logins.
/// It is stale if the login has one already.
pub fn begin_commit(id: &LoginId, exchange: &TokenExchange, now: HostTime) -> Commit {
    Commit {
        records: vec![put_write(key(id), exchange, Some(0), Some(TTL))],
        due: vec![DueWrite {
            subject: Subject::Login(id.clone()),
            due: Some((QueueName::Logins, now.minus(LOGIN_PRECEDENCE))),
        }],
        ..Commit::default()
    }
}

/// Returns the key of the record of a token exchange.
pub fn key(id: &LoginId) -> RecordKey {
    RecordKey::new(RecordKind::TokenExchange, id.as_str())
}

/// Returns the name for which the short-lived token of a login is sealed.
pub fn seal_name(id: &LoginId) -> String {
    format!("login:{id}")
}
