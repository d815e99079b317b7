//! The kinds of records, one file for each, with the operations on them.
//!
//! Invariant: a feature that stores something new adds a kind of record here, and no method to
//! [`Store`].

pub mod alert;
mod alert_kind;
pub mod api_key;
pub mod app;
pub mod audit;
pub mod connection;
pub mod daily_poll;
pub mod dead_letter;
pub mod decode;
pub mod destination;
pub mod dropped;
pub mod erasure;
pub mod excluded_field;
pub mod expiry;
pub mod forwarding;
pub mod invitation;
pub mod key_rotation;
pub mod lease;
pub mod login;
pub mod missed_webhooks;
pub mod page_subscription;
pub mod poll_progress;
pub mod probe;
pub mod rate_limit;
pub mod token;
pub mod token_exchange;
pub mod token_inspection;
pub mod trial;
pub mod waiting_delivery;
pub mod webhook_hour;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::store::codec::describe_error;
use crate::store::{
    Commit, CommitOutcome, RecordKey, RecordKind, RecordWrite, Store, StoreError, Versioned,
};

/// Loads a record and decodes it. Returns `None` if it does not exist or has expired. Fails with
/// [`StoreError::Unexpected`] if it cannot be decoded. [`load_decodable`] does not fail then.
pub async fn load_record<T: DeserializeOwned>(
    store: &dyn Store,
    key: &RecordKey,
) -> Result<Option<Versioned<T>>, StoreError> {
    let found = store.load_record(key).await?;
    found
        .map(|Versioned { version, value }| {
            let value = decode_record(key, value)?;
            Ok(Versioned { version, value })
        })
        .transpose()
}

fn decode_record<T: DeserializeOwned>(key: &RecordKey, body: Json) -> Result<T, StoreError> {
    serde_json::from_value(body).map_err(|error| unreadable(key.kind, &error))
}

/// Returns the error for a record that cannot be decoded. It names the kind and the shape of the
/// record, and contains neither its id nor a value.
fn unreadable(kind: RecordKind, error: &serde_json::Error) -> StoreError {
    let kind = kind.name();
    let shape = describe_error(error);
    StoreError::Unexpected(format!(
        "a record of kind {kind} cannot be decoded: {shape}"
    ))
}

/// Loads a record as [`load_decodable`] does. Returns `None` also if it cannot be decoded.
pub async fn load_if_decodable<T: DeserializeOwned>(
    store: &dyn Store,
    key: &RecordKey,
) -> Result<Option<Versioned<T>>, StoreError> {
    let stored = load_decodable(store, key).await?;
    Ok(stored.and_then(|Versioned { version, value }| {
        let value = value?;
        Some(Versioned { version, value })
    }))
}

/// Loads a record and decodes it, as [`load_record`] does. A record that cannot be decoded is
/// logged, and its value is `None`. This is for records without which the caller can do its work.
pub async fn load_decodable<T: DeserializeOwned>(
    store: &dyn Store,
    key: &RecordKey,
) -> Result<Option<Versioned<Option<T>>>, StoreError> {
    let found = store.load_record(key).await?;
    Ok(found.map(|Versioned { version, value }| {
        let value = decode_record(key, value)
            .inspect_err(|error| tracing::warn!(error = %error, "a record is ignored"))
            .ok();
        Versioned { version, value }
    }))
}

/// Returns the write of a record. `expected` is the version that the record must have: 0 if it must
/// not exist, `None` to accept any version. `ttl` is the time until the record expires; with `None`
/// it does not expire.
pub fn put_write<T: Serialize>(
    key: RecordKey,
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

/// The largest number of records in a chunk.
const CHUNK_SIZE: usize = 250;

/// Loads the next chunk of the records of a kind whose ids begin with `prefix`, in the order of
/// their ids. `after` is the last id of the previous chunk, or `None` for the first chunk; it is
/// set to the last id of this chunk. Returns `None` after the last chunk. A record that cannot be
/// decoded is left out and logged, so that it does not hide the others.
pub async fn load_chunk<T: DeserializeOwned>(
    store: &dyn Store,
    kind: RecordKind,
    prefix: &str,
    after: &mut Option<String>,
) -> Result<Option<Vec<(String, Versioned<T>)>>, StoreError> {
    // The ids that begin with the prefix are the first ones after it.
    let from = after
        .clone()
        .or_else(|| (!prefix.is_empty()).then(|| prefix.to_owned()));
    let found = store
        .list_records(kind, from.as_deref(), CHUNK_SIZE)
        .await?;
    let matches = |key: &RecordKey| key.id.starts_with(prefix);
    let Some((last, _)) = found.iter().rfind(|(key, _)| matches(key)) else {
        return Ok(None);
    };
    *after = Some(last.id.clone());
    let mut chunk = Vec::with_capacity(found.len());
    for (key, Versioned { version, value }) in found.into_iter().filter(|(key, _)| matches(key)) {
        match decode_record(&key, value) {
            Ok(value) => chunk.push((key.id, Versioned { version, value })),
            Err(error) => {
                tracing::error!(record.id = key.id, error = %error, "a record cannot be decoded");
            }
        }
    }
    Ok(Some(chunk))
}

/// Loads all records of a kind whose ids begin with `prefix`, as [`load_chunk`] does. If there may
/// be as many of them as Pages, [`load_chunk`] needs less memory.
pub async fn load_all<T: DeserializeOwned>(
    store: &dyn Store,
    kind: RecordKind,
    prefix: &str,
) -> Result<Vec<(String, Versioned<T>)>, StoreError> {
    let mut all = Vec::new();
    let mut after = None;
    while let Some(mut chunk) = load_chunk(store, kind, prefix, &mut after).await? {
        all.append(&mut chunk);
    }
    Ok(all)
}

/// Returns the keys of all records of a kind whose ids begin with `prefix`, also of those that
/// cannot be decoded, with their bodies.
pub async fn load_bodies(
    store: &dyn Store,
    kind: RecordKind,
    prefix: &str,
) -> Result<Vec<(RecordKey, Json)>, StoreError> {
    let records = load_all::<Json>(store, kind, prefix).await?;
    let record = |(id, stored): (String, Versioned<Json>)| (RecordKey { kind, id }, stored.value);
    Ok(records.into_iter().map(record).collect())
}

/// Writes all of these records in one commit.
pub async fn write_records(
    store: &dyn Store,
    records: Vec<RecordWrite>,
) -> Result<CommitOutcome, StoreError> {
    commit_one(
        store,
        Commit {
            records,
            ..Commit::default()
        },
    )
    .await
}

/// Executes one commit and returns its outcome.
pub async fn commit_one(store: &dyn Store, commit: Commit) -> Result<CommitOutcome, StoreError> {
    let outcomes = store.commit(&[commit]).await?;
    Ok(outcomes.into_iter().next().unwrap_or(CommitOutcome::Stale))
}
