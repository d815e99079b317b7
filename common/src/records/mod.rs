//! Kinds of records, one file each, with the verbs on them. A feature adds a kind here, never a
//! method to [`Store`].

pub mod app;
pub mod connection;
pub mod dead_letter;
pub mod drift;
pub mod erasure;
pub mod forecast;
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

/// Records read from the store at once.
const AT_ONCE: usize = 250;

/// Records of a kind whose ids begin with `prefix`, in the order of their ids, a chunk at a time: `after`
/// is where the last one ended. `None`: there are no more. One that cannot be decoded is left out and
/// logged: it must not hide the others.
pub async fn chunk<T: DeserializeOwned>(
    store: &dyn Store,
    kind: Kind,
    prefix: &str,
    after: &mut Option<String>,
) -> Result<Option<Vec<(String, Versioned<T>)>>, StoreError> {
    // Ids are printable; nothing sorts between a prefix and what begins with it.
    let from = after
        .clone()
        .or_else(|| (!prefix.is_empty()).then(|| prefix.to_owned()));
    let found = store.records(kind, from.as_deref(), AT_ONCE).await?;
    let ours = |key: &Key| key.id.starts_with(prefix);
    let Some((last, _)) = found.iter().rfind(|(key, _)| ours(key)) else {
        return Ok(None);
    };
    *after = Some(last.id.clone());
    let mut chunk = Vec::with_capacity(found.len());
    for (key, Versioned { version, value }) in found.into_iter().filter(|(key, _)| ours(key)) {
        match read(&key, value) {
            Ok(value) => chunk.push((key.id, Versioned { version, value })),
            Err(error) => {
                tracing::error!(record.id = key.id, error = %error, "a record cannot be decoded");
            }
        }
    }
    Ok(Some(chunk))
}

/// All of them. For kinds of which there are as many as Pages, [`chunk`] takes less memory.
pub async fn all<T: DeserializeOwned>(
    store: &dyn Store,
    kind: Kind,
    prefix: &str,
) -> Result<Vec<(String, Versioned<T>)>, StoreError> {
    let mut all = Vec::new();
    let mut after = None;
    while let Some(mut more) = chunk(store, kind, prefix, &mut after).await? {
        all.append(&mut more);
    }
    Ok(all)
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
