//! Sealed tokens. Invariant: the name a token is sealed for is the record it stands in.

use model::id::{GrantId, PageId, UserId};
use model::time::Millis;
use serde::{Deserialize, Serialize};

use super::grant::{self, Grant, Stage};
use super::{all, commit, connection, get, put, write};
use crate::custody::{CustodyError, Keys, PublicKey, Sealed, Token};
use crate::store::{Commit, Key, Kind, Outcome, RecordWrite, Store, StoreError, Versioned};

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
    let is_old = |sealed: &Sealed| sealed.key != keys.current().id();
    for kind in [Kind::UserToken, Kind::PageToken] {
        for (id, held) in all::<Held>(store, kind, "").await? {
            if held.value.sealed.as_ref().is_some_and(is_old) {
                reseal_token(store, keys, Key::new(kind, id), &mut report).await?;
            }
        }
    }
    for (id, held) in all::<Grant>(store, Kind::Grant, "").await? {
        let id = GrantId::parse(&id);
        if let (Stage::Sealed(sealed), Some(id)) = (&held.value.stage, id)
            && is_old(sealed)
        {
            reseal_grant(store, keys, &id, held, &mut report).await?;
        }
    }
    Ok(report)
}

/// One token, read after the guard: of a life of the connection that has ended nothing is written.
async fn reseal_token(
    store: &dyn Store,
    keys: &Keys,
    key: Key,
    report: &mut Report,
) -> Result<(), StoreError> {
    let whose = key.id.split_once('.').map_or(&*key.id, |(user, _)| user);
    let Ok(whose) = UserId::parse(whose) else {
        return Ok(());
    };
    let guard = connection::guard(store, &whose).await?;
    let Some(Versioned { version, value }) = get::<Held>(store, &key).await? else {
        return Ok(());
    };
    let opened = open(&key, &value, keys);
    let next =
        opened.and_then(|token| keep(key.clone(), token.as_ref(), keys.current(), value.obtained));
    let Ok(RecordWrite::Put { body, .. }) = next else {
        report.lost += 1;
        return Ok(());
    };
    let next = RecordWrite::Put {
        key,
        body,
        expected: Some(version),
        ttl: None,
    };
    let next = Commit {
        records: vec![next],
        guards: vec![guard],
        ..Commit::default()
    };
    match commit(store, next).await? {
        Outcome::Applied => report.resealed += 1,
        Outcome::Stale => report.old += 1,
    }
    Ok(())
}

async fn reseal_grant(
    store: &dyn Store,
    keys: &Keys,
    id: &GrantId,
    Versioned { version, value }: Versioned<Grant>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let name = grant::seal_name(id);
    let Stage::Sealed(sealed) = &value.stage else {
        return Ok(());
    };
    let sealed = keys
        .open(sealed, &name)
        .and_then(|token| keys.current().seal(&token, &name));
    let Ok(sealed) = sealed else {
        report.lost += 1;
        return Ok(());
    };
    let next = Grant {
        stage: Stage::Sealed(sealed),
        ..value
    };
    let next = put(grant::key(id), &next, Some(version), Some(grant::TTL));
    match write(store, vec![next]).await? {
        Outcome::Applied => report.resealed += 1,
        Outcome::Stale => report.old += 1,
    }
    Ok(())
}
