//! Counts the parts of webhooks that were received and dropped, such as messages, for each local day.
//!
//! Invariant: a count contains the name of a webhook field or of a kind of part, and nothing of its
//! content.

use std::collections::BTreeMap;

use super::{load_all, write_records};
use crate::store::{RecordKey, RecordKind, RecordWrite, Store, StoreError};

/// Adds counts of one local day, by the name of the part.
pub async fn add(
    store: &dyn Store,
    day: &str,
    counts: &BTreeMap<&'static str, u64>,
) -> Result<(), StoreError> {
    let write = |(name, n): (&&str, &u64)| RecordWrite::Add {
        key: RecordKey::new(RecordKind::DroppedCount, format!("{day}.{name}")),
        n: i64::try_from(*n).unwrap_or(i64::MAX),
    };
    let writes: Vec<RecordWrite> = counts.iter().map(write).collect();
    if !writes.is_empty() {
        write_records(store, writes).await?;
    }
    Ok(())
}

/// Returns the counts since the local day `from`, by the name of the part.
pub async fn since(store: &dyn Store, from: &str) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut counts = BTreeMap::new();
    for (id, stored) in load_all::<i64>(store, RecordKind::DroppedCount, "").await? {
        if id.as_str() < from {
            continue;
        }
        if let Some((_, name)) = id.split_once('.') {
            let n = u64::try_from(stored.value).unwrap_or(0);
            *counts.entry(name.to_owned()).or_default() += n;
        }
    }
    Ok(counts)
}

/// Deletes the counts of the days before the local day `from`.
pub async fn prune(store: &dyn Store, from: &str) -> Result<(), StoreError> {
    let stored = load_all::<i64>(store, RecordKind::DroppedCount, "").await?;
    let old = stored.into_iter().filter(|(id, _)| id.as_str() < from);
    let deletes: Vec<RecordWrite> = old
        .map(|(id, stored)| RecordWrite::Delete {
            key: RecordKey::new(RecordKind::DroppedCount, id),
            expected: Some(stored.version),
        })
        .collect();
    if !deletes.is_empty() {
        write_records(store, deletes).await?;
    }
    Ok(())
}
