//! Rotates keys: seals every stored token to the current key.
//!
//! Invariants: a token is written only if its record still has the version that was read; the token
//! of a connection is written under the guard of the connection's epoch.

use model::forward::ForwardedDelivery;
use model::id::{LoginId, UserId};
use model::job::{Job, decode_job};

use super::dead_letter::{self, DeadLetter};
use super::token::{StoredToken, open_token, seal_write};
use super::token_exchange::{self, Stage, TokenExchange};
use super::{
    commit_one, connection, load_all, load_record, put_write, waiting_delivery, write_records,
};
use crate::sealing::{PrivateKeys, SealedToken};
use crate::store::{
    Commit, CommitOutcome, RecordKey, RecordKind, RecordWrite, Store, StoreError, Versioned,
};

/// The numbers of tokens that a rotation sealed to the current key and did not seal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RotationReport {
    /// Tokens that were sealed to the current key.
    pub resealed: u64,
    /// Tokens that are still sealed to an older key.
    pub outdated: u64,
    /// Tokens that no private key of this process opens.
    pub unopenable: u64,
}

impl RotationReport {
    /// Counts a token that is not sealed to the current key.
    fn count(&mut self, sealed: &SealedToken, keys: &PrivateKeys) {
        if sealed.key_id == keys.current().id() {
            return;
        }
        if keys.contains(&sealed.key_id) {
            self.outdated += 1;
        } else {
            self.unopenable += 1;
        }
    }
}

/// Counts the tokens that are not sealed to the current key: as outdated if a private key opens
/// them, as unopenable otherwise.
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
    for (_, stored) in load_all::<TokenExchange>(store, RecordKind::TokenExchange, "").await? {
        if let Stage::Sealed(sealed) = &stored.value.stage {
            report.count(sealed, keys);
        }
    }
    Ok(report)
}

/// Returns how many deliveries that wait, or have a dead letter, are sealed to another key than the current
/// one.
pub async fn count_outdated_deliveries(
    store: &dyn Store,
    keys: &PrivateKeys,
) -> Result<u64, StoreError> {
    let is_old =
        |delivery: &ForwardedDelivery| u64::from(delivery.key.key_id != keys.current().id());
    let (mut count, mut after) = (0, None);
    while let Some(chunk) = waiting_delivery::next_chunk(store, &mut after).await? {
        let old = chunk.iter().map(|(_, one)| is_old(&one.value.delivery));
        count += old.sum::<u64>();
    }
    let mut after = None;
    while let Some(chunk) = dead_letter::next_chunk::<DeadLetter>(store, &mut after).await? {
        for (_, stored) in chunk {
            if let Job::Forward(delivery) = decode_job(&stored.value.job) {
                count += is_old(&delivery);
            }
        }
    }
    Ok(count)
}

/// Seals every token to the current key, each in a commit of its own. A token that is written by
/// another process at the same time is left as it is and counted as outdated. Repeating a rotation
/// is safe.
pub async fn reseal_all(
    store: &dyn Store,
    keys: &PrivateKeys,
) -> Result<RotationReport, StoreError> {
    let mut report = RotationReport::default();
    let is_old = |sealed: &SealedToken| sealed.key_id != keys.current().id();
    for kind in [RecordKind::UserToken, RecordKind::PageToken] {
        for (id, stored) in load_all::<StoredToken>(store, kind, "").await? {
            if stored.value.sealed.as_ref().is_some_and(is_old) {
                reseal_token(store, keys, RecordKey::new(kind, id), &mut report).await?;
            }
        }
    }
    for (id, stored) in load_all::<TokenExchange>(store, RecordKind::TokenExchange, "").await? {
        let id = LoginId::parse(&id);
        if let (Stage::Sealed(sealed), Some(id)) = (&stored.value.stage, id)
            && is_old(sealed)
        {
            reseal_login_token(store, keys, &id, stored, &mut report).await?;
        }
    }
    Ok(report)
}

/// Seals one token to the current key. The guard is read before the token, so that nothing is
/// written if the connection ends after the token was read.
async fn reseal_token(
    store: &dyn Store,
    keys: &PrivateKeys,
    key: RecordKey,
    report: &mut RotationReport,
) -> Result<(), StoreError> {
    let user = key.id.split_once('.').map_or(&*key.id, |(user, _)| user);
    let Ok(user) = UserId::parse(user) else {
        return Ok(());
    };
    let guard = connection::epoch_guard(store, &user).await?;
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

/// Seals the short-lived token of one login to the current key.
async fn reseal_login_token(
    store: &dyn Store,
    keys: &PrivateKeys,
    id: &LoginId,
    Versioned { version, value }: Versioned<TokenExchange>,
    report: &mut RotationReport,
) -> Result<(), StoreError> {
    let name = token_exchange::seal_name(id);
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
    let next = TokenExchange {
        stage: Stage::Sealed(sealed),
        ..value
    };
    let next = put_write(
        token_exchange::key(id),
        &next,
        Some(version),
        Some(token_exchange::TTL),
    );
    match write_records(store, vec![next]).await? {
        CommitOutcome::Applied => report.resealed += 1,
        CommitOutcome::Stale => report.outdated += 1,
    }
    Ok(())
}
