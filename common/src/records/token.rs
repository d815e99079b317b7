//! The records of sealed tokens.
//!
//! Invariant: a token is sealed for the name of the record in which it is stored.

use model::id::{PageId, UserId};
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::put_write;
use crate::sealing::{PrivateKeys, PublicKey, SealedToken, SealingError, Token};
use crate::store::{RecordKey, RecordKind, RecordWrite};

/// A token as it is stored in a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredToken {
    /// The token, sealed for this record; `None` if Facebook listed the Page without a token, or if
    /// the token was deleted.
    pub sealed: Option<SealedToken>,
    /// When the token was obtained, on this host's clock. For the token of a Page this is when the
    /// connection poll that listed the Page began.
    pub obtained_at: HostTime,
}

impl StoredToken {
    /// The record of a Page to which a person gave access before. A later erasure of the person finds
    /// the Page by it.
    pub const OF_FORMER_ACCESS: Self = Self {
        sealed: None,
        obtained_at: HostTime(0),
    };

    /// Returns whether the person gives access to the Page, or did so when the Page was last listed.
    pub fn gives_access(&self) -> bool {
        self.obtained_at > HostTime(0)
    }
}

/// Returns the key of the record of a person's token.
pub fn user_key(user: &UserId) -> RecordKey {
    RecordKey::new(RecordKind::UserToken, user.as_str())
}

/// Returns the key of the record of a Page's token that was obtained with the token of `user`.
pub fn page_key(user: &UserId, page: &PageId) -> RecordKey {
    RecordKey::new(RecordKind::PageToken, format!("{user}.{page}"))
}

/// Returns the beginning of the record ids of all Page tokens of a person.
pub fn page_prefix(user: &UserId) -> String {
    format!("{user}.")
}

/// Returns the Page in the record id of a Page token, or `None` if it has another form.
pub fn page_in_id(id: &str) -> Option<PageId> {
    PageId::parse(id.split_once('.')?.1).ok()
}

/// Returns the name for which the token of a record is sealed.
pub fn seal_name(key: &RecordKey) -> String {
    format!("{}:{}", key.kind.name(), key.id)
}

/// Seals a token and returns the write of its record.
pub fn seal_write(
    key: RecordKey,
    token: Option<&Token>,
    public_key: &PublicKey,
    obtained_at: HostTime,
) -> Result<RecordWrite, SealingError> {
    let sealed = token
        .map(|token| public_key.seal(token, &seal_name(&key)))
        .transpose()?;
    Ok(put_write(
        key,
        &StoredToken {
            sealed,
            obtained_at,
        },
        None,
        None,
    ))
}

/// Opens the token of a record. Returns `None` if the record has no token.
pub fn open_token(
    key: &RecordKey,
    stored: &StoredToken,
    keys: &PrivateKeys,
) -> Result<Option<Token>, SealingError> {
    stored
        .sealed
        .as_ref()
        .map(|sealed| keys.open(sealed, &seal_name(key)))
        .transpose()
}
