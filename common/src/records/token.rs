//! Sealed tokens. Invariant: the name a token is sealed for is the record it stands in.

use model::id::{PageId, UserId};
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::put_write;
use crate::sealing::{PrivateKeys, PublicKey, SealedToken, SealingError, Token};
use crate::store::{RecordKey, RecordKind, RecordWrite};

/// A token as it stands in its record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredToken {
    /// The token, sealed for this record; `None`: the Page is listed, and no token was given for it.
    pub sealed: Option<SealedToken>,
    /// When it was obtained, on our clock. Of a Page's token: when the walk that listed it began.
    pub obtained_at: HostTime,
}

/// The record of a person's token.
pub fn user_key(user: &UserId) -> RecordKey {
    RecordKey::new(RecordKind::UserToken, user.as_str())
}

/// The record of a Page's token as `user` gives it.
pub fn page_key(user: &UserId, page: &PageId) -> RecordKey {
    RecordKey::new(RecordKind::PageToken, format!("{user}.{page}"))
}

/// What the ids of all Page tokens of a person begin with.
pub fn page_prefix(user: &UserId) -> String {
    format!("{user}.")
}

/// The Page in the id of a Page token.
pub fn page_in_id(id: &str) -> Option<PageId> {
    PageId::parse(id.split_once('.')?.1).ok()
}

/// The name a token is sealed for.
pub fn seal_name(key: &RecordKey) -> String {
    format!("{}:{}", key.kind.name(), key.id)
}

/// The write that keeps a token.
pub fn seal_write(
    key: RecordKey,
    token: Option<&Token>,
    public: &PublicKey,
    obtained: HostTime,
) -> Result<RecordWrite, SealingError> {
    let sealed = token
        .map(|token| public.seal(token, &seal_name(&key)))
        .transpose()?;
    Ok(put_write(
        key,
        &StoredToken {
            sealed,
            obtained_at: obtained,
        },
        None,
        None,
    ))
}

/// The token of a record, if it holds one.
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
