//! The removal of a dead letter.
//!
//! Invariant: one commit removes a dead letter, its entry in the list of retries, and its part of the
//! counts.

use serde_json::Value as Json;

use super::record::{key, unlist_write};
use super::usage;
use crate::records::write_records;
use crate::store::{CommitOutcome, RecordWrite, Store, StoreError, Versioned};

/// Returns the writes that remove a dead letter of this version.
pub(super) fn remove_writes(id: &str, stored: &Versioned<Json>) -> Vec<RecordWrite> {
    let mut writes = vec![
        RecordWrite::Delete {
            key: key(id),
            expected: Some(stored.version),
        },
        unlist_write(id),
    ];
    writes.extend(usage::remove_writes(&stored.value));
    writes
}

/// Removes a dead letter, also one that cannot be decoded. Does nothing if it does not exist.
pub async fn remove(store: &dyn Store, id: &str) -> Result<(), StoreError> {
    while let Some(stored) = store.load_record(&key(id)).await? {
        let removed = write_records(store, remove_writes(id, &stored)).await?;
        if removed == CommitOutcome::Applied {
            break;
        }
    }
    Ok(())
}
