//! The entries of the change feed, and the cursors of its readers.
//!
//! Invariant: an entry that another version of pagesync wrote does not hide the others.

use std::fmt;

use model::field::FieldName;
use model::id::PageId;
use model::page::{Change, Source, Status};
use model::time::{FacebookTime, HostTime};
use model::value::CanonicalValue;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::codec;
use super::commit::PageWrite;
use super::error::StoreError;

/// The change of one field in an entry of the change feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The field that changed.
    pub field: FieldName,
    /// The value before the change; null if there was none.
    pub before: Json,
    /// The value after the change; null if there is none.
    pub after: Json,
    /// The stamp of the observation that changed the value, on Facebook's clock.
    pub changed_at: FacebookTime,
    /// The source of that observation: a read or a webhook.
    pub source: Source,
}

impl From<&Change> for FieldChange {
    fn from(change: &Change) -> Self {
        Self {
            field: change.field.clone(),
            before: json(change.before.as_ref()),
            after: json(change.after.as_ref()),
            changed_at: change.stamp,
            source: change.source,
        }
    }
}

/// Returns a value as JSON.
pub(super) fn json(value: Option<&CanonicalValue>) -> Json {
    value.map_or(Json::Null, CanonicalValue::to_json)
}

/// An entry of the change feed: what one commit changed of one Page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedEntry {
    /// The Page that changed.
    pub page: PageId,
    /// The version of the Page after the changes.
    pub version: u64,
    /// The status of the Page after the changes; `None` if an earlier version of pagesync wrote the
    /// entry.
    #[serde(default)]
    pub status: Option<Status>,
    /// The client of the Page after the changes.
    #[serde(default)]
    pub client: Option<String>,
    /// The fields that changed, sorted. Empty if only the status changed.
    pub fields: Vec<FieldName>,
    /// The source of the first of the changes: a read or a webhook. `None` if no field changed.
    #[serde(default)]
    pub source: Option<Source>,
    /// When the changes were stored, on this host's clock.
    pub received_at: HostTime,
    /// The client of the Page before the changes, if they moved the Page to another one; empty if it had
    /// none.
    #[serde(skip)]
    pub former_client: Option<String>,
    /// The change of each field. The stores keep it apart from the entry, so that an erasure can
    /// delete it. `None` if the Page was erased since, or if an earlier version of pagesync wrote the
    /// entry.
    #[serde(skip)]
    pub changes: Option<Vec<FieldChange>>,
}

/// The part of an entry that every version of pagesync writes.
#[derive(Deserialize)]
struct EntryOfAnyVersion {
    page: PageId,
    version: u64,
    received_at: HostTime,
}

impl FeedEntry {
    /// Decodes an entry and its values. Of an entry that another version of pagesync wrote and this one
    /// cannot read, only the Page and its version are returned, so that it does not block the feed. Fails
    /// with [`StoreError::Unexpected`] if not even these can be read.
    pub(crate) fn decode(
        entry: &str,
        changes: Option<&str>,
        former_client: Option<String>,
    ) -> Result<Self, StoreError> {
        let decoded: Result<Self, _> = serde_json::from_str(entry);
        let Ok(decoded) = decoded else {
            let entry: EntryOfAnyVersion = codec::from_json(entry)?;
            return Ok(Self {
                page: entry.page,
                version: entry.version,
                status: None,
                client: None,
                fields: Vec::new(),
                source: None,
                received_at: entry.received_at,
                former_client,
                changes: None,
            });
        };
        let changes = match changes {
            Some(changes) => serde_json::from_str(changes).ok(),
            None => decoded.fields.is_empty().then(Vec::new),
        };
        Ok(Self {
            former_client,
            changes,
            ..decoded
        })
    }

    /// Returns the entry of a write, without the former client, which only the store knows. The store
    /// adds it to the feed if the write changes a field or, on a stored Page, the status or the client.
    pub fn new(write: &PageWrite) -> Self {
        let mut changes: Vec<FieldChange> = write.changes.iter().map(FieldChange::from).collect();
        changes.sort_by(|one, other| one.field.cmp(&other.field));
        let mut fields: Vec<FieldName> = changes.iter().map(|one| one.field.clone()).collect();
        fields.dedup();
        Self {
            page: write.id.clone(),
            version: write.expected + 1,
            status: Some(write.page.status),
            client: write.page.client.clone(),
            fields,
            source: write.changes.first().map(|change| change.source),
            received_at: write.received_at,
            former_client: None,
            changes: Some(changes),
        }
    }
}

/// A position in the change feed, after which a reader continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The epoch of the store, which changes when the store is emptied. On Redis, the run id of the
    /// server follows, which changes at each start of Redis: a crash may have lost entries.
    pub epoch: String,
    /// The number of the last entry that was read; 0 if none was read.
    pub position: u64,
}

impl Cursor {
    /// Parses a cursor from `<epoch>.<position>`, as its `Display` writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, position) = text.rsplit_once('.')?;
        Some(Self {
            epoch: epoch.to_owned(),
            position: position.parse().ok()?,
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.position)
    }
}

/// The entries of the change feed after a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// The next entries in order, each with the cursor that continues after it.
    Entries(Vec<(Cursor, FeedEntry)>),
    /// Entries after the cursor are no longer retained, or the cursor is of another epoch. The
    /// reader must load all Pages and then continue from this cursor.
    Trimmed(Cursor),
}
