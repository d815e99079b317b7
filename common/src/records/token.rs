//! Sealed tokens. Invariant: the name a token is sealed for is the record it stands in.

use model::id::{GrantId, PageId, UserId};
use model::time::Millis;
use serde::{Deserialize, Serialize};

use super::grant::{self, Grant, Stage};
use super::{all, put, write};
use crate::custody::{CustodyError, Keys, PublicKey, Sealed, Token};
use crate::store::{Key, Kind, Outcome, RecordWrite, Store, StoreError, Versioned};

/// A token as it stands in its record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Held {
    /// The token, sealed for this record; `None`: the Page is listed, and no token was given for it.
    pub sealed: Option<Sealed>,
    /// When it was obtained, on our clock. Of a Page's token: when the walk that listed it began.
    pub obtained: Millis,
}

/// The record of a person's token.
pub fn of_user(user: &UserId) -> Key {
    Key::new(Kind::UserToken, user.as_str())
}

/// The record of a Page's token as `user` gives it.
pub fn of_page(user: &UserId, page: &PageId) -> Key {
    Key::new(Kind::PageToken, format!("{user}.{page}"))
}

/// What the ids of all Page tokens of a person begin with.
pub fn prefix(user: &UserId) -> String {
    format!("{user}.")
}

/// The Page in the id of a Page token.
pub fn page_of(id: &str) -> Option<PageId> {
    PageId::parse(id.split_once('.')?.1).ok()
}

/// The name a token is sealed for.
pub fn name(key: &Key) -> String {
    format!("{}:{}", key.kind.name(), key.id)
}

/// The write that keeps a token.
pub fn keep(
    key: Key,
    token: Option<&Token>,
    public: &PublicKey,
    obtained: Millis,
) -> Result<RecordWrite, CustodyError> {
    let sealed = token
        .map(|token| public.seal(token, &name(&key)))
        .transpose()?;
    Ok(put(key, &Held { sealed, obtained }, None, None))
}

/// The token of a record, if it holds one.
pub fn open(key: &Key, held: &Held, keys: &Keys) -> Result<Option<Token>, CustodyError> {
    held.sealed
        .as_ref()
        .map(|sealed| keys.open(sealed, &name(key)))
        .transpose()
}

/// What a rotation of keys came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Sealed anew.
    pub resealed: u64,
    /// Sealed to an older key still.
    pub old: u64,
    /// Sealed to a key that is not here.
    pub lost: u64,
}

impl Report {
    fn count(&mut self, sealed: &Sealed, keys: &Keys) {
        if sealed.key == keys.current().id() {
            return;
        }
        if keys.hold(&sealed.key) {
            self.old += 1;
        } else {
            self.lost += 1;
        }
    }
}

/// How many tokens are sealed to another key than the current one.
pub async fn left(store: &dyn Store, keys: &Keys) -> Result<Report, StoreError> {
    let mut report = Report::default();
    for kind in [Kind::UserToken, Kind::PageToken] {
        for (_, held) in all::<Held>(store, kind, "").await? {
            if let Some(sealed) = &held.value.sealed {
                report.count(sealed, keys);
            }
        }
    }
    for (_, held) in all::<Grant>(store, Kind::Grant, "").await? {
        if let Stage::Sealed(sealed) = &held.value.stage {
            report.count(sealed, keys);
        }
    }
    Ok(report)
}

/// Seals every token to the current key, one commit each, each only on the version it was read at:
/// whoever writes a token meanwhile is right. Repeating it is safe.
pub async fn reseal(store: &dyn Store, keys: &Keys) -> Result<Report, StoreError> {
    let mut report = Report::default();
    for kind in [Kind::UserToken, Kind::PageToken] {
        for (id, Versioned { version, value }) in all::<Held>(store, kind, "").await? {
            let is_current = |sealed: &Sealed| sealed.key == keys.current().id();
            if value.sealed.as_ref().is_none_or(is_current) {
                continue;
            }
            let key = Key::new(kind, id);
            let opened = open(&key, &value, keys);
            let next = opened.and_then(|token| {
                keep(key.clone(), token.as_ref(), keys.current(), value.obtained)
            });
            let Ok(RecordWrite::Put { body, .. }) = next else {
                report.lost += 1;
                continue;
            };
            let next = RecordWrite::Put {
                key,
                body,
                expected: Some(version),
                ttl: None,
            };
            match write(store, vec![next]).await? {
                Outcome::Applied => report.resealed += 1,
                Outcome::Stale => report.old += 1,
            }
        }
    }
    for (id, Versioned { version, value }) in all::<Grant>(store, Kind::Grant, "").await? {
        let (Stage::Sealed(sealed), Some(id)) = (&value.stage, GrantId::parse(&id)) else {
            continue;
        };
        if sealed.key == keys.current().id() {
            continue;
        }
        let name = grant::seal_name(&id);
        let sealed = keys
            .open(sealed, &name)
            .and_then(|token| keys.current().seal(&token, &name));
        let Ok(sealed) = sealed else {
            report.lost += 1;
            continue;
        };
        let stage = Stage::Sealed(sealed);
        let next = put(
            grant::key(&id),
            &Grant { stage, ..value },
            Some(version),
            Some(grant::TTL),
        );
        match write(store, vec![next]).await? {
            Outcome::Applied => report.resealed += 1,
            Outcome::Stale => report.old += 1,
        }
    }
    Ok(report)
}
