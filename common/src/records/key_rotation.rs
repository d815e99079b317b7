//! Rotating keys: sealing every stored token to the current key.
//!
//! Invariant: a token is written only on the version it was read at, under the guard of its connection's
//! epoch.

use model::id::{GrantId, UserId};

use super::grant::{self, Grant, Stage};
use super::token::{StoredToken, open_token, seal_write};
use super::{commit_one, connection, load_all, load_record, put_write, write_records};
use crate::sealing::{PrivateKeys, SealedToken};
use crate::store::{
    Commit, CommitOutcome, RecordKey, RecordKind, RecordWrite, Store, StoreError, Versioned,
};

/// What a rotation of keys came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RotationReport {
    /// Sealed anew.
    pub resealed: u64,
    /// Sealed to an older key still.
    pub outdated: u64,
    /// Sealed to a key that is not here.
    pub unopenable: u64,
}

impl RotationReport {
    fn count(&mut self, sealed: &SealedToken, keys: &PrivateKeys) {
        if sealed.key == keys.current().id() {
            return;
        }
        if keys.contains(&sealed.key) {
            self.outdated += 1;
        } else {
            self.unopenable += 1;
        }
    }
}

/// How many tokens are sealed to another key than the current one.
pub async fn count_outdated(
    store: &dyn Store,
    keys: &PrivateKeys,
) -> Result<RotationReport, StoreError> {
    let mut report = RotationReport::default();
    for kind in [RecordKind::UserToken, RecordKind::PageToken] {
        for (_, stored) in load_all::<StoredToken>(store, kind, "").await? {
            if let Some(sealed) = &stored.value.sealed {
                report.count(sealed, keys);
            }
        }
    }
    for (_, stored) in load_all::<Grant>(store, RecordKind::Grant, "").await? {
        if let Stage::Sealed(sealed) = &stored.value.stage {
            report.count(sealed, keys);
        }
    }
    Ok(report)
}

/// Seals every token to the current key, one commit each, each only on the version it was read at:
/// whoever writes a token meanwhile is right. Repeating it is safe.
pub async fn reseal_all(
    store: &dyn Store,
    keys: &PrivateKeys,
) -> Result<RotationReport, StoreError> {
    let mut report = RotationReport::default();
    let is_old = |sealed: &SealedToken| sealed.key != keys.current().id();
    for kind in [RecordKind::UserToken, RecordKind::PageToken] {
        for (id, stored) in load_all::<StoredToken>(store, kind, "").await? {
            if stored.value.sealed.as_ref().is_some_and(is_old) {
                reseal_token(store, keys, RecordKey::new(kind, id), &mut report).await?;
            }
        }
    }
    for (id, stored) in load_all::<Grant>(store, RecordKind::Grant, "").await? {
        let id = GrantId::parse(&id);
        if let (Stage::Sealed(sealed), Some(id)) = (&stored.value.stage, id)
            && is_old(sealed)
        {
            reseal_grant(store, keys, &id, stored, &mut report).await?;
        }
    }
    Ok(report)
}

/// One token, read after the guard: of a life of the connection that has ended nothing is written.
async fn reseal_token(
    store: &dyn Store,
    keys: &PrivateKeys,
    key: RecordKey,
    report: &mut RotationReport,
) -> Result<(), StoreError> {
    let whose = key.id.split_once('.').map_or(&*key.id, |(user, _)| user);
    let Ok(whose) = UserId::parse(whose) else {
        return Ok(());
    };
    let guard = connection::epoch_guard(store, &whose).await?;
    let Some(Versioned { version, value }) = load_record::<StoredToken>(store, &key).await? else {
        return Ok(());
    };
    let opened = open_token(&key, &value, keys);
    let next = opened.and_then(|token| {
        seal_write(
            key.clone(),
            token.as_ref(),
            keys.current(),
            value.obtained_at,
        )
    });
    let Ok(RecordWrite::Put { body, .. }) = next else {
        report.unopenable += 1;
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
    match commit_one(store, next).await? {
        CommitOutcome::Applied => report.resealed += 1,
        CommitOutcome::Stale => report.outdated += 1,
    }
    Ok(())
}

async fn reseal_grant(
    store: &dyn Store,
    keys: &PrivateKeys,
    id: &GrantId,
    Versioned { version, value }: Versioned<Grant>,
    report: &mut RotationReport,
) -> Result<(), StoreError> {
    let name = grant::seal_name(id);
    let Stage::Sealed(sealed) = &value.stage else {
        return Ok(());
    };
    let sealed = keys
        .open(sealed, &name)
        .and_then(|token| keys.current().seal(&token, &name));
    let Ok(sealed) = sealed else {
        report.unopenable += 1;
        return Ok(());
    };
    let next = Grant {
        stage: Stage::Sealed(sealed),
        ..value
    };
    let next = put_write(grant::key(id), &next, Some(version), Some(grant::TTL));
    match write_records(store, vec![next]).await? {
        CommitOutcome::Applied => report.resealed += 1,
        CommitOutcome::Stale => report.outdated += 1,
    }
    Ok(())
}
