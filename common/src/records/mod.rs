//! Kinds of records, one file each, with the verbs on them. A feature adds a kind here, never a
//! method to [`Store`].

pub mod app;
pub mod connection;
pub mod dead_letter;
pub mod grant;
pub mod login;
pub mod probe;
pub mod quarantine;
pub mod run;
pub mod subscription;
pub mod throttle;
pub mod token;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::store::{Commit, Key, Kind, Outcome, RecordWrite, Store, StoreError, Versioned};

/// A record as its type.
pub async fn get<T: DeserializeOwned>(
    store: &dyn Store,
    key: &Key,
) -> Result<Option<Versioned<T>>, StoreError> {
    let found = store.record(key).await?;
    found
        .map(|Versioned { version, value }| {
            let value = read(key, value)?;
            Ok(Versioned { version, value })
        })
        .transpose()
}

fn read<T: DeserializeOwned>(key: &Key, body: Json) -> Result<T, StoreError> {
    let kind = key.kind.name();
    serde_json::from_value(body)
        .map_err(|error| StoreError::Unexpected(format!("a record of kind {kind}: {error}")))
}

/// The write of a record.
pub fn put<T: Serialize>(
    key: Key,
    value: &T,
    expected: Option<u64>,
    ttl: Option<Duration>,
) -> RecordWrite {
    let body = serde_json::to_value(value)
        .unwrap_or_else(|error| unreachable!("plain data encodes: {error}"));
    RecordWrite::Put {
        key,
        body,
        expected,
        ttl,
    }
}

/// Every record of a kind whose id begins with `prefix`, in the order of their ids. One that cannot
/// be decoded is left out and logged: it must not hide the others.
pub async fn all<T: DeserializeOwned>(
    store: &dyn Store,
    kind: Kind,
    prefix: &str,
) -> Result<Vec<(String, Versioned<T>)>, StoreError> {
    const AT_ONCE: usize = 500;
    let mut all = Vec::new();
    // Ids are printable; nothing sorts between a prefix and what begins with it.
    let mut after = (!prefix.is_empty()).then(|| prefix.to_owned());
    loop {
        let found = store.records(kind, after.as_deref(), AT_ONCE).await?;
        let Some((last, _)) = found.last() else {
            return Ok(all);
        };
        after = Some(last.id.clone());
        for (key, Versioned { version, value }) in found {
            if !key.id.starts_with(prefix) {
                return Ok(all);
            }
            match read(&key, value) {
                Ok(value) => all.push((key.id, Versioned { version, value })),
                Err(error) => {
                    tracing::error!(record.id = key.id, error = %error, "a record cannot be decoded");
                }
            }
        }
    }
}

/// Writes records together.
pub async fn write(store: &dyn Store, records: Vec<RecordWrite>) -> Result<Outcome, StoreError> {
    commit(
        store,
        Commit {
            records,
            ..Commit::default()
        },
    )
    .await
}

/// One commit.
pub async fn commit(store: &dyn Store, commit: Commit) -> Result<Outcome, StoreError> {
    let outcomes = store.commit(&[commit]).await?;
    Ok(outcomes.into_iter().next().unwrap_or(Outcome::Stale))
}
