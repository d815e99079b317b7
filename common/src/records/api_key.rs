//! The keys with which programs use the HTTP API.
//!
//! Invariant: the store contains the hash of a key and never the key. A key has 256 random bits, so a
//! plain SHA-256 of it cannot be reversed.

use std::fmt;
use std::time::Duration;

use model::hex::hex;
use model::id::PageId;
use model::time::HostTime;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{load_if_decodable, load_record, put_write, write_records};
use crate::store::{CommitOutcome, RecordKey, RecordKind, Store, StoreError, Versioned};

/// The text before the id in a key, by which scanners of source code can find leaked keys.
const PREFIX: &str = "pagesync_";
/// How long a record is stored after its key has ended or was revoked.
const RETENTION: Duration = Duration::from_secs(90 * 24 * 3600);

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Reading everything except the bodies of dead letters.
    Read,
    /// Reading everything, and actions.
    Operate,
    /// The tokens of Pages, from the worker, and nothing else.
    Token,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Token => "token",
        })
    }
}

/// The stored part of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// A name by which people recognize the key.
    pub name: String,
    /// What the key allows.
    pub scope: Scope,
    /// The SHA-256 of the text of the key, in hexadecimal digits.
    pub hash: String,
    /// The only Pages that the key may see; `None` for all Pages.
    #[serde(default)]
    pub pages: Option<Vec<PageId>>,
    /// The only client whose Pages and connections the key may see; `None` for all.
    #[serde(default)]
    pub client: Option<String>,
    /// When the key was made, on this host's clock.
    pub created_at: HostTime,
    /// When the key ends; `None` if it does not end.
    #[serde(default)]
    pub expires_at: Option<HostTime>,
    /// When the key was revoked; `None` if it is not revoked.
    #[serde(default)]
    pub revoked_at: Option<HostTime>,
}

impl ApiKey {
    /// Returns whether the key can be used at `now`.
    pub fn is_usable(&self, now: HostTime) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }

    /// Returns whether the key is limited to some Pages or to a client.
    pub fn is_limited(&self) -> bool {
        self.pages.is_some() || self.client.is_some()
    }

    /// Returns whether the key may see a Page of this client.
    pub fn may_see(&self, page: &PageId, client: Option<&str>) -> bool {
        let is_listed = |pages: &Vec<PageId>| pages.contains(page);
        self.pages.as_ref().is_none_or(is_listed)
            && (self.client.is_none() || self.client.as_deref() == client)
    }
}

/// A new key, whose text is shown once.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The id of the key.
    pub id: String,
    /// The text of the key.
    pub text: SecretString,
}

impl NewKey {
    /// Returns a key with random bytes of the operating system. Fails if it returns none.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let (mut id, mut secret) = ([0; 8], [0; 32]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        let id = hex(&id);
        let text = format!("{PREFIX}{id}_{}", hex(&secret));
        Ok(Self {
            id,
            text: text.into(),
        })
    }
}

/// Returns the hash of the text of a key, as it is stored.
pub fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Returns the id in the text of a key, or `None` if the text is not of the form of a key.
pub fn id_in(text: &str) -> Option<&str> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let is_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (id.len() == 16 && secret.len() == 64 && is_hex(id) && is_hex(secret)).then_some(id)
}

/// Returns whether `text` is the key that belongs to a record.
pub fn matches(record: &ApiKey, text: &str) -> bool {
    let is_equal = record.hash.as_bytes().ct_eq(hash(text).as_bytes());
    bool::from(is_equal)
}

/// Returns the key of the record of an API key.
pub fn key(id: &str) -> RecordKey {
    RecordKey::new(RecordKind::ApiKey, id)
}

/// Stores a new key.
pub async fn save(
    store: &dyn Store,
    id: &str,
    record: &ApiKey,
    now: HostTime,
) -> Result<CommitOutcome, StoreError> {
    let ttl = record.expires_at.map(|end| now.until(end) + RETENTION);
    let write = put_write(key(id), record, Some(0), ttl);
    write_records(store, vec![write]).await
}

/// Returns the record of a key, or `None` if there is none or this build cannot decode it.
pub async fn find(store: &dyn Store, id: &str) -> Result<Option<ApiKey>, StoreError> {
    let stored = load_if_decodable(store, &key(id)).await?;
    Ok(stored.map(|stored| stored.value))
}

/// Revokes a key. Returns its record, or `None` if there is no such key.
pub async fn revoke(
    store: &dyn Store,
    id: &str,
    now: HostTime,
) -> Result<Option<ApiKey>, StoreError> {
    loop {
        let stored = load_record::<ApiKey>(store, &key(id)).await?;
        let Some(Versioned { version, mut value }) = stored else {
            return Ok(None);
        };
        if value.revoked_at.is_some() {
            return Ok(Some(value));
        }
        value.revoked_at = Some(now);
        let write = put_write(key(id), &value, Some(version), Some(RETENTION));
        if write_records(store, vec![write]).await? == CommitOutcome::Applied {
            return Ok(Some(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_key_matches_only_its_own_record_and_its_debug_text_has_no_key() {
        let (new, other) = (NewKey::generate().unwrap(), NewKey::generate().unwrap());
        let (one, other) = (new.text.expose_secret(), other.text.expose_secret());
        let record = ApiKey {
            name: "bot".to_owned(),
            scope: Scope::Read,
            hash: hash(one),
            pages: None,
            client: None,
            created_at: HostTime(0),
            expires_at: Some(HostTime(10)),
            revoked_at: None,
        };
        assert!(matches(&record, one));
        assert!(!matches(&record, other));
        assert_eq!(id_in(one), Some(new.id.as_str()));
        for text in ["", "pagesync_", "pagesync_a_b", &one[1..], "Bearer x"] {
            assert_eq!(id_in(text), None, "{text}");
        }
        let debug = format!("{record:?} {new:?}");
        assert!(!debug.contains(one), "{debug}");
        assert!(record.is_usable(HostTime(9)) && !record.is_usable(HostTime(10)));
    }
}
