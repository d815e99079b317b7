//! Fields that Graph refused as nonexistent. Asked for again they would fail the whole call, so they
//! are left out for a week, then tried again.

use std::time::Duration;

use model::field::FieldName;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::{load_all, put_write};
use crate::store::{RecordKey, RecordKind, RecordWrite, Store, StoreError};

/// How long a field is left out.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// A field that is left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExcludedField {
    /// Since when, on our clock.
    pub excluded_at: HostTime,
}

/// The write that leaves a field out.
pub fn exclude_write(field: &str, now: HostTime) -> RecordWrite {
    let key = RecordKey::new(RecordKind::ExcludedField, field);
    put_write(key, &ExcludedField { excluded_at: now }, None, Some(TTL))
}

/// The names that are left out now.
pub async fn excluded_names(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let stored = load_all::<ExcludedField>(store, RecordKind::ExcludedField, "").await?;
    Ok(stored.into_iter().map(|(name, _)| name).collect())
}

/// `fields` without those that are left out.
pub fn without_excluded(fields: &[FieldName], left_out: &[String]) -> Vec<FieldName> {
    let asked = |field: &&FieldName| !left_out.iter().any(|name| name == field.as_str());
    fields.iter().filter(asked).cloned().collect()
}
