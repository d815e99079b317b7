//! Excluded fields: fields that Graph refused, because they do not exist, have ended, or are not
//! available for a Page.
//!
//! One refused field makes the whole call fail, so it is excluded from all calls for a week and then
//! requested again.

use std::time::Duration;

use model::field::FieldName;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::{load_all, put_write};
use crate::store::{RecordKey, RecordKind, RecordWrite, Store, StoreError};

/// How long a field is excluded.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// A field that is excluded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExcludedField {
    /// When Graph refused the field, on this host's clock.
    pub excluded_at: HostTime,
}

/// Returns the write that excludes a field.
pub fn exclude_write(field: &str, now: HostTime) -> RecordWrite {
    let key = RecordKey::new(RecordKind::ExcludedField, field);
    put_write(key, &ExcludedField { excluded_at: now }, None, Some(TTL))
}

/// Returns the names of the fields that are excluded now.
pub async fn excluded_names(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let stored = load_all::<ExcludedField>(store, RecordKind::ExcludedField, "").await?;
    Ok(stored.into_iter().map(|(name, _)| name).collect())
}

/// Returns `fields` without the fields named in `excluded`.
pub fn without_excluded(fields: &[FieldName], excluded: &[String]) -> Vec<FieldName> {
    let is_requested = |field: &&FieldName| !excluded.iter().any(|name| name == field.as_str());
    fields.iter().filter(is_requested).cloned().collect()
}
