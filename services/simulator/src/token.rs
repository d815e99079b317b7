//! Access tokens and the codes that are exchanged for them.

use serde::{Deserialize, Serialize};

/// How long a token from a code is valid, in seconds.
pub const SHORT_LIVED_SECONDS: u64 = 3600;
/// How long an exchanged token is valid, in seconds: about 60 days.
pub const LONG_LIVED_SECONDS: u64 = 5_184_000;
/// How long a code can be exchanged, in seconds.
pub const CODE_SECONDS: u64 = 600;
/// How long the app has access to data after a login, in seconds: about 90 days.
const DATA_ACCESS_SECONDS: u64 = 7_776_000;

/// The subject of a token: a person or a Page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOwner {
    /// The person who logged in.
    User,
    /// The Page with this id.
    Page(String),
}

/// An access token.
#[derive(Debug, Clone)]
pub struct Token {
    /// The person or the Page that the token belongs to.
    pub owner: TokenOwner,
    /// The id of the person from whose login the token comes.
    pub user: String,
    /// The id of the app that the token was issued to.
    pub app: String,
    /// When it was issued, in UNIX seconds.
    pub issued_at: u64,
    /// When the person logged in, in UNIX seconds. An exchange does not change it.
    pub logged_in_at: u64,
    /// When it expires, in UNIX seconds; `None` if it never expires.
    pub expires_at: Option<u64>,
    /// Whether the token belongs to a system user of a business.
    pub is_system_user: bool,
    /// The error subcode if the token was invalidated; `None` if it was not.
    pub invalid_subcode: Option<u64>,
}

impl Token {
    /// Returns the id of the Page that the token belongs to, or `None` for the token of a person.
    pub fn page(&self) -> Option<&str> {
        match &self.owner {
            TokenOwner::Page(id) => Some(id),
            TokenOwner::User => None,
        }
    }

    /// Returns the error subcode with which Graph refuses the token at `now`, or `None` if the
    /// token is valid.
    pub fn refusal_subcode(&self, now: u64) -> Option<u64> {
        let is_expired = self.expires_at.is_some_and(|expires| expires <= now);
        self.invalid_subcode.or(is_expired.then_some(463))
    }

    /// Returns the time at which the access to data ends unless the person logs in again, in UNIX
    /// seconds.
    pub fn data_access_expires(&self) -> u64 {
        self.logged_in_at + DATA_ACCESS_SECONDS
    }
}

/// A request to invalidate tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenInvalidation {
    /// The person whose tokens become invalid; absent for every person.
    #[serde(default)]
    pub user: Option<String>,
    /// The Page whose tokens become invalid; absent for every token of the person.
    #[serde(default)]
    pub page: Option<String>,
    /// The error subcode that Graph returns from now on.
    pub subcode: u64,
}

impl TokenInvalidation {
    /// Returns whether a token becomes invalid.
    pub(crate) fn applies_to(&self, token: &Token) -> bool {
        let is_user = self.user.as_ref().is_none_or(|user| *user == token.user);
        let named = self.page.as_deref();
        is_user && named.is_none_or(|page| token.page() == Some(page))
    }
}

/// A code that the dialog returns and the app exchanges for a token.
#[derive(Debug, Clone)]
pub struct LoginCode {
    /// The id of the person who logged in.
    pub user: String,
    /// The redirect address that the code was sent to.
    pub redirect_uri: String,
    /// When it was issued, UNIX seconds.
    pub issued_at: u64,
    /// Whether it was exchanged.
    pub used: bool,
    /// Whether it is exchanged for the token of a system user.
    pub is_system_user: bool,
}
