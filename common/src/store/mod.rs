//! Stores Pages, their history, the change feed, the due index and records.
//!
//! There are two backends, [`redis`] and [`embedded`]. Both pass the conformance suite in
//! `services/pagesync/tests/it/store.rs`. Invariant: every change goes through [`Store::commit`],
//! which compares versions and merges nothing. Observations are merged in `model` before the
//! commit.

pub mod codec;
mod commit;
mod due;
pub mod embedded;
mod error;
mod feed;
mod record;
pub mod redis;

pub use commit::{Commit, CommitOutcome, DueWrite, PageWrite, RecordGuard, RecordWrite};
pub use due::{ClaimedEntries, DueEntry};
pub use error::StoreError;
pub use feed::{Changes, Cursor, FeedEntry, FieldChange};
pub use record::{RecordKey, RecordKind};

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use model::field::FieldName;
use model::id::{PageId, UserId};
use model::page::{Change, Page, Source, Status};
use model::queue_name::QueueName;
use model::time::{FacebookTime, HostTime};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// The largest number of entries in the history of a Page.
pub const MAX_HISTORY: usize = 20;
/// The number of entries that the change feed retains.
pub const MAX_FEED: u64 = 100_000;

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
        Self {
            field: change.field.clone(),
            before: feed::json(change.before.as_ref()),
            after: feed::json(change.after.as_ref()),
            changed_at: change.stamp,
            source: change.source,
            received_at,
            version,
        }
    }
}

/// A list of Pages that every commit keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageIndex {
    /// Every Page.
    All,
    /// The Pages with a status. A Page that cannot be decoded has the status it was written with, or
    /// [`Status::Corrupt`].
    Status(Status),
    /// The Pages of a client.
    Client(String),
    /// The Pages to which the connection of a person gives access.
    Connection(UserId),
    /// The Pages whose field `is_published` is false.
    Unpublished,
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

    /// Returns up to `limit` Pages of an index whose ids are greater than `after`, ordered by their
    /// ids as text.
    async fn list_pages(
        &self,
        index: &PageIndex,
        after: Option<&PageId>,
        limit: usize,
    ) -> Result<Vec<(PageId, Versioned<StoredPage>)>, StoreError>;

    /// Returns the number of Pages with each status. Each Page that cannot be decoded counts with the
    /// status it was written with, or as [`Status::Corrupt`].
    async fn count_pages(&self) -> Result<BTreeMap<Status, u64>, StoreError>;

    /// Corrects the indexes of [`Store::list_pages`] and the numbers of [`Store::count_pages`], which
    /// an earlier version of pagesync may have left wrong. Reads every Page on Redis.
    async fn correct_page_indexes(&self) -> Result<(), StoreError>;

    /// Returns the last changes of a Page, the newest first, at most [`MAX_HISTORY`].
    async fn history(&self, id: &PageId) -> Result<Vec<HistoryEntry>, StoreError>;

    /// Returns up to `limit` entries of the change feed after `cursor`, or from the first retained
    /// entry if it is `None`.
    async fn changes_after(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Changes, StoreError>;

    /// Returns the cursor after the newest entry of the change feed.
    async fn newest_cursor(&self) -> Result<Cursor, StoreError>;

    /// Deletes the values of every erased Page from the change feed, whose entries remain. A commit that
    /// erases a Page does this on the embedded backend; on Redis this reads the whole feed.
    async fn forget_erased_changes(&self) -> Result<(), StoreError>;

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
