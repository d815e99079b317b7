//! The writes of a commit, and its outcome.
//!
//! Invariant: a commit is executed as a whole or not at all.

use std::time::Duration;

use model::id::{PageId, Subject};
use model::page::{Change, Page};
use model::queue_name::QueueName;
use model::time::HostTime;
use serde_json::Value as Json;

use super::record::RecordKey;

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
