//! The audit: who did what, when, and with which outcome.
//!
//! Invariant: the record of an action is committed before the action is answered. The ids of the records
//! sort the newest first.

use std::time::Duration;

use model::id::UserId;
use model::time::HostTime;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{load_chunk, put_write, write_records};
use crate::store::{RecordKey, RecordKind, Store, StoreError, Versioned};

/// How long the record of an action is stored.
const RETENTION: Duration = Duration::from_secs(90 * 24 * 3600);

/// An action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When the action ended, on this host's clock.
    pub at: HostTime,
    /// Who did it: the id of an API key, or `command line`.
    pub actor: String,
    /// The name of the API key.
    #[serde(default)]
    pub actor_name: Option<String>,
    /// The name of the action, such as `page.read`.
    pub action: String,
    /// The object of the action, such as `page:100`.
    pub target: String,
    /// The version of the object that the request named.
    #[serde(default)]
    pub version: Option<u64>,
    /// The outcome: `done`, or the code of the problem.
    pub outcome: String,
}

/// Stores the record of an action.
pub async fn record(store: &dyn Store, action: &AuditRecord) -> Result<(), StoreError> {
    let id = format!("{:016x}-{:08x}", u64::MAX - action.at.0, fastrand::u32(..));
    let key = RecordKey::new(RecordKind::Audit, id);
    let write = put_write(key, action, None, Some(RETENTION));
    write_records(store, vec![write]).await.map(drop)
}

/// Takes an erased person out of the records: the actions on their connection remain, without their id.
/// Repeating it is safe.
pub async fn forget_person(
    store: &dyn Store,
    user: &UserId,
    now: HostTime,
) -> Result<(), StoreError> {
    let target = format!("connection:{user}");
    let mut after = None;
    while let Some(chunk) =
        load_chunk::<AuditRecord>(store, RecordKind::Audit, "", &mut after).await?
    {
        let of_person = chunk
            .into_iter()
            .filter(|(_, stored)| stored.value.target == target);
        for (id, mut stored) in of_person {
            "connection:erased".clone_into(&mut stored.value.target);
            let left = RETENTION.saturating_sub(stored.value.at.until(now));
            let key = RecordKey::new(RecordKind::Audit, id);
            // A record is written once, so no other write is lost.
            let write = put_write(key, &stored.value, Some(stored.version), Some(left));
            write_records(store, vec![write]).await?;
        }
    }
    Ok(())
}

/// Returns up to `limit` records after the record `after`, the newest first, each with its id, and the
/// cursor to go on; `None` after the oldest one. A record that this build cannot decode is left out.
pub async fn list(
    store: &dyn Store,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<(String, AuditRecord)>, Option<String>), StoreError> {
    let found = store.list_records(RecordKind::Audit, after, limit).await?;
    let decode = |(key, stored): (RecordKey, Versioned<Json>)| {
        Some((key.id, serde_json::from_value(stored.value).ok()?))
    };
    let last = found.last().filter(|_| found.len() == limit);
    let next = last.map(|(key, _)| key.id.clone());
    Ok((found.into_iter().filter_map(decode).collect(), next))
}
