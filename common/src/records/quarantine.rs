//! Fields that Graph refused as nonexistent. Asked for again they would fail the whole call, so they
//! are left out for a week, then tried again.

use std::time::Duration;

use model::field::FieldName;
use model::time::Millis;
use serde::{Deserialize, Serialize};

use super::{all, put};
use crate::store::{Key, Kind, RecordWrite, Store, StoreError};

/// How long a field is left out.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// A field that is left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Quarantined {
    /// Since when, on our clock.
    pub since: Millis,
}

/// The write that leaves a field out.
pub fn leave_out(field: &str, now: Millis) -> RecordWrite {
    let key = Key::new(Kind::Quarantine, field);
    put(key, &Quarantined { since: now }, None, Some(TTL))
}

/// The names that are left out now.
pub async fn names(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let held = all::<Quarantined>(store, Kind::Quarantine, "").await?;
    Ok(held.into_iter().map(|(name, _)| name).collect())
}

/// `fields` without those that are left out.
pub fn without(fields: &[FieldName], left_out: &[String]) -> Vec<FieldName> {
    let asked = |field: &&FieldName| !left_out.iter().any(|name| name == field.as_str());
    fields.iter().filter(asked).cloned().collect()
}
