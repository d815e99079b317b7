//! Stores Pages, their history, the change feed, the due index and records.
//!
//! There are two backends, [`redis`] and [`embedded`]. Both pass the conformance suite in
//! `services/pagesync/tests/it/store.rs`. Invariant: every change goes through [`Store::commit`],
//! which compares versions and merges nothing. Observations are merged in `model` before the
//! commit.

pub mod codec;
mod due;
pub mod embedded;
mod record;
pub mod redis;

pub use due::{ClaimedEntries, DueEntry};
pub use record::{RecordKey, RecordKind};

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use model::field::FieldName;
use model::id::{PageId, Subject};
use model::page::{Change, Page, Source, Status};
use model::queue_name::QueueName;
use model::time::{FacebookTime, HostTime};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// The largest number of entries in the history of a Page.
pub const MAX_HISTORY: usize = 20;
/// The number of entries that the change feed retains. Redis may retain a few more.
pub const MAX_FEED: u64 = 100_000;

/// The reason why an operation of the store failed. The variant says whether waiting can help.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, is read-only, is full, or did not answer in time. The operation
    /// may have been executed. Repeating it later is safe, and can succeed.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The store contains data that this build cannot interpret, for example because a newer
    /// version of pagesync wrote it. Repeating the operation fails again, and only the subject of
    /// the data is affected.
    #[error("the store returned data that this build does not understand: {0}")]
    Unexpected(String),
}

impl StoreError {
    /// Returns whether the store itself does not work, so that every operation may fail until it
    /// recovers.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// A stored value with its version. Version 0 means that nothing is stored, or that the version of
/// a corrupt Page cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// How often the value was written since it was created.
    pub version: u64,
    /// The value.
    pub value: T,
}

/// A Page as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPage {
    /// Nothing is stored.
    Unknown,
    /// The decoded Page.
    Page(Box<Page>),
    /// The stored data cannot be decoded.
    Corrupt(CorruptPage),
}

/// The stored data of a Page that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorruptPage {
    /// The stored data as text; bytes that are not UTF-8 are replaced. Empty if the data has a type
    /// that contains no fields.
    pub raw: String,
    /// The reason why the data cannot be decoded.
    pub reason: String,
}

/// A change of one field in the history of a Page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
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
    /// When the change was stored, on this host's clock.
    pub received_at: HostTime,
    /// The version of the Page after the change.
    pub version: u64,
}

impl HistoryEntry {
    /// Returns the entry of a change that is stored at `received_at` and leads to `version`.
    pub fn new(change: &Change, received_at: HostTime, version: u64) -> Self {
        let json = |value: &Option<model::value::CanonicalValue>| {
            value
                .as_ref()
                .map_or(Json::Null, model::value::CanonicalValue::to_json)
        };
        Self {
            field: change.field.clone(),
            before: json(&change.before),
            after: json(&change.after),
            changed_at: change.stamp,
            source: change.source,
            received_at,
            version,
        }
    }
}

/// An entry of the change feed. It names the Page and the fields that one commit changed, and
/// contains no values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedEntry {
    /// The Page that changed.
    pub page: PageId,
    /// The version of the Page after the changes.
    pub version: u64,
    /// The fields that changed, sorted.
    pub fields: Vec<FieldName>,
    /// The source of the first of the changes: a read or a webhook.
    pub source: Source,
    /// When the changes were stored, on this host's clock.
    pub received_at: HostTime,
}

impl FeedEntry {
    /// Returns the entry of a write, or `None` if the write changes no field visibly.
    pub fn new(write: &PageWrite) -> Option<Self> {
        let mut fields: Vec<FieldName> = write
            .changes
            .iter()
            .map(|change| change.field.clone())
            .collect();
        fields.sort_unstable();
        fields.dedup();
        let source = write.changes.first()?.source;
        Some(Self {
            page: write.id.clone(),
            version: write.expected + 1,
            fields,
            source,
            received_at: write.received_at,
        })
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

/// The write of a Page.
#[derive(Debug, Clone)]
pub struct PageWrite {
    /// The id of the Page.
    pub id: PageId,
    /// The version that the Page must have: the one that was loaded, or 0 if none is stored.
    pub expected: u64,
    /// The Page to store.
    pub page: Page,
    /// The visible changes, which are added to the history and the change feed.
    pub changes: Vec<Change>,
    /// When the changes are stored, on this host's clock.
    pub received_at: HostTime,
}

/// The write of a record.
#[derive(Debug, Clone)]
pub enum RecordWrite {
    /// Stores a record.
    Put {
        /// The key of the record.
        key: RecordKey,
        /// The content of the record.
        body: Json,
        /// The version that the record must have, 0 if it must not exist; `None` accepts any.
        expected: Option<u64>,
        /// How long the record is stored; `None` if it does not expire.
        ttl: Option<Duration>,
    },
    /// Deletes a record. With an expected version, only one of several callers can delete the
    /// record.
    Delete {
        /// The key of the record.
        key: RecordKey,
        /// The version that the record must have; `None` accepts any, or no record.
        expected: Option<u64>,
    },
    /// Adds to a record that contains an integer. A record that does not exist counts as 0. A body
    /// that is not an integer was written by a newer version, and is not changed.
    Add {
        /// The key of the record.
        key: RecordKey,
        /// The number to add.
        n: i64,
    },
}

/// The write of a due time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueWrite {
    /// The subject of the poll.
    pub subject: Subject,
    /// The queue that the poll goes to and when it is due, on this host's clock; `None` removes the
    /// subject from the due index. The store lowers a time that is further ahead of its own clock
    /// than [`MAX_DUE_AHEAD`](model::polling::MAX_DUE_AHEAD).
    pub due: Option<(QueueName, HostTime)>,
}

/// A condition of a commit: a record has a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordGuard {
    /// The record.
    pub key: RecordKey,
    /// The version that it must have; 0 if it must not exist.
    pub version: u64,
}

/// Writes that are executed together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// The write of a Page.
    pub page: Option<PageWrite>,
    /// The writes of records.
    pub records: Vec<RecordWrite>,
    /// The conditions under which anything is written.
    pub guards: Vec<RecordGuard>,
    /// The writes of the due index.
    pub due: Vec<DueWrite>,
}

/// The outcome of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Everything was written.
    Applied,
    /// A version was not the expected one, and nothing was written. The caller must load again.
    Stale,
}

/// The result of [`Store::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The epoch of the store; empty if `errors` is not empty.
    pub epoch: String,
    /// Settings with which the store must not be used, each with its remedy.
    pub errors: Vec<String>,
    /// Settings that should be changed, each with its remedy.
    pub warnings: Vec<String>,
}

impl Health {
    /// Returns the errors, or `Ok` if there are none.
    pub fn into_result(self) -> Result<(), UnsafeSettings> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(UnsafeSettings(self.errors))
        }
    }
}

/// Settings with which the store must not be used, each with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the settings of the store do not allow its use: {}", .0.join("; "))]
pub struct UnsafeSettings(pub Vec<String>);

/// Durable storage for everything that is not in the queue.
///
/// Every method fails with [`StoreError::Unavailable`] if the store does not answer.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Returns the Pages with these ids, in the same order. A Page that cannot be decoded does not
    /// fail the others.
    async fn load_pages(&self, ids: &[PageId]) -> Result<Vec<Versioned<StoredPage>>, StoreError>;

    /// Returns up to `limit` Pages whose ids are greater than `after`, ordered by their ids as
    /// text.
    async fn list_pages(
        &self,
        after: Option<&PageId>,
        limit: usize,
    ) -> Result<Vec<(PageId, Versioned<StoredPage>)>, StoreError>;

    /// Returns the number of Pages with each status. Each Page that cannot be decoded counts with the
    /// status it was written with, or as [`Status::Corrupt`].
    async fn count_pages(&self) -> Result<BTreeMap<Status, u64>, StoreError>;

    /// Corrects the numbers that [`Store::count_pages`] returns, which an earlier version of pagesync
    /// may have left wrong. Reads every Page on Redis.
    async fn correct_page_counts(&self) -> Result<(), StoreError>;

    /// Returns the last changes of a Page, the newest first, at most [`MAX_HISTORY`].
    async fn history(&self, id: &PageId) -> Result<Vec<HistoryEntry>, StoreError>;

    /// Returns up to `limit` entries of the change feed after `cursor`, or from the first retained
    /// entry if it is `None`.
    async fn changes_after(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Changes, StoreError>;

    /// Executes commits and returns their outcomes in order. Each commit is atomic, but not all of
    /// them together. `Ok` means that they are as durable as the store is configured to make them.
    async fn commit(&self, commits: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError>;

    /// Claims up to `max` subjects of a queue that are due at `now`, including those that this
    /// build does not know. A claimed subject is due again when `lease` has passed, unless a commit
    /// writes another due time. Two callers never receive the same claim.
    async fn claim_due(
        &self,
        queue_name: QueueName,
        now: HostTime,
        lease: Duration,
        max: usize,
    ) -> Result<ClaimedEntries, StoreError>;

    /// Returns up to `limit` entries of the due index of a queue, the earliest first.
    async fn next_due(
        &self,
        queue_name: QueueName,
        limit: usize,
    ) -> Result<Vec<DueEntry>, StoreError>;

    /// Makes the entries of the due index that lie further ahead than [`MAX_DUE_AHEAD`](model::polling::MAX_DUE_AHEAD) due now, up
    /// to 1,000 of each queue. A host whose clock was wrong has written them. Returns their number.
    async fn pull_back_due_times(&self) -> Result<u64, StoreError>;

    /// Returns the time of the clock with which the store limits due times and expires records.
    async fn now(&self) -> Result<HostTime, StoreError>;

    /// Returns a record, or `None` if it does not exist or has expired. A body that is not JSON is
    /// returned as a JSON string, which is the form of no record, so that it does not fail the
    /// others.
    async fn load_record(&self, key: &RecordKey) -> Result<Option<Versioned<Json>>, StoreError>;

    /// Returns up to `limit` records of a kind whose ids are greater than `after`, ordered by id.
    async fn list_records(
        &self,
        kind: RecordKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Versioned<Json>)>, StoreError>;

    /// Waits until everything that this process has read from the store is as durable as the store is
    /// configured to make commits. A commit whose result was not confirmed may be visible earlier.
    async fn confirm(&self) -> Result<(), StoreError>;

    /// Checks the settings of the store and, if they allow its use, whether it accepts a write.
    async fn check(&self) -> Result<Health, StoreError>;

    /// Removes deleted data from the files on disk that still contain it, and waits until this is
    /// done. Redis needs minutes for a large store. Fails if the store cannot remove it.
    async fn scrub(&self) -> Result<(), StoreError>;
}

/// Loads one Page. Its version is 0 and its value [`StoredPage::Unknown`] if none is stored.
pub async fn load_page(
    store: &dyn Store,
    id: &PageId,
) -> Result<Versioned<StoredPage>, StoreError> {
    let mut loaded = store.load_pages(std::slice::from_ref(id)).await?;
    let missing = || StoreError::Unexpected("a load returned no entry for the Page".to_owned());
    loaded.pop().ok_or_else(missing)
}
