//! The deliveries that could not be forwarded yet, and that the queue does not hold any more.
//!
//! Invariant: a delivery has at most one record, whose id follows from the delivery, so storing it again
//! changes nothing else. It is deleted after the program has accepted the delivery, when the delivery has
//! a dead letter, when one of its Pages is erased, and at the latest after
//! [`FORWARD_RETENTION`].

use std::collections::HashSet;
use std::time::Duration;

use model::forward::{FORWARD_RETENTION, ForwardedDelivery};
use model::id::PageId;
use model::job::{Job, JobId, encode_job};
use model::time::HostTime;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{load_chunk, put_write, write_records};
use crate::store::{RecordKey, RecordKind, RecordWrite, Store, StoreError, Versioned};

/// A delivery that is due to be forwarded again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingDelivery {
    /// The delivery.
    pub delivery: ForwardedDelivery,
    /// How often it could not be forwarded since it has a record.
    pub failures: u32,
    /// When it is forwarded again, on this host's clock.
    pub retry_at: HostTime,
}

impl WaitingDelivery {
    /// Returns the size of the record, in bytes, without its parts of constant size.
    pub fn size(&self) -> usize {
        self.delivery.sealed.len()
    }
}

/// Returns the key of a delivery. The keys are in the order in which the deliveries were received.
pub fn key(delivery: &ForwardedDelivery) -> RecordKey {
    let id = JobId::from_encoded(&encode_job(&Job::Forward(delivery.clone())));
    let id = format!("{:014}.{}", delivery.received_at.0, id.as_str());
    RecordKey::new(RecordKind::WaitingDelivery, id)
}

/// Returns the write of a delivery at `now`. `expected` is the version that its record must have.
pub fn write(waiting: &WaitingDelivery, expected: Option<u64>, now: HostTime) -> RecordWrite {
    let ends_at = waiting.delivery.received_at.plus(FORWARD_RETENTION);
    // A record cannot be stored for no time at all.
    let ttl = now.until(ends_at);
    let ttl = ttl.clamp(Duration::from_secs(1), FORWARD_RETENTION);
    put_write(key(&waiting.delivery), waiting, expected, Some(ttl))
}

/// Returns the write that deletes a delivery.
pub fn remove_write(delivery: &ForwardedDelivery) -> RecordWrite {
    RecordWrite::Delete {
        key: key(delivery),
        expected: None,
    }
}

/// Returns the next deliveries in the order in which they were received, as
/// [`load_chunk`] does.
pub async fn next_chunk(
    store: &dyn Store,
    after: &mut Option<String>,
) -> Result<Option<Vec<(String, Versioned<WaitingDelivery>)>>, StoreError> {
    load_chunk(store, RecordKind::WaitingDelivery, "", after).await
}

/// Returns when the oldest delivery that has a record was received, or `None` if there is none.
pub async fn oldest(store: &dyn Store) -> Result<Option<HostTime>, StoreError> {
    let kind = RecordKind::WaitingDelivery;
    let first = store.list_records(kind, None, 1).await?;
    let received_at = |id: &str| id.split_once('.')?.0.parse().ok().map(HostTime);
    Ok(first.first().and_then(|(key, _)| received_at(&key.id)))
}

/// Deletes the deliveries of these Pages. Returns how many were deleted. A delivery that this build cannot
/// decode is searched for the ids as text.
pub async fn delete_of_pages(store: &dyn Store, ids: &[String]) -> Result<u64, StoreError> {
    let wanted: HashSet<&str> = ids.iter().map(String::as_str).collect();
    let (mut deleted, mut after) = (0, None);
    let kind = RecordKind::WaitingDelivery;
    while let Some(chunk) = load_chunk::<Json>(store, kind, "", &mut after).await? {
        let mut deletes = Vec::new();
        for (id, stored) in chunk {
            let text = stored.value.to_string();
            let is_of_pages = match serde_json::from_value::<WaitingDelivery>(stored.value) {
                Ok(waiting) => is_of_any(&waiting.delivery, &wanted),
                Err(_) => ids
                    .iter()
                    .any(|id| super::dead_letter::contains_number(&text, id)),
            };
            if is_of_pages {
                deletes.push(RecordWrite::Delete {
                    key: RecordKey { kind, id },
                    expected: None,
                });
            }
        }
        deleted += deletes.len() as u64;
        if !deletes.is_empty() {
            write_records(store, deletes).await?;
        }
    }
    Ok(deleted)
}

fn is_of_any(delivery: &ForwardedDelivery, wanted: &HashSet<&str>) -> bool {
    let mut pages = delivery.pages.iter().map(PageId::as_str);
    pages.any(|id| wanted.contains(id))
}
