//! The store: Pages, their history, the change feed, the due index, records.
//!
//! Two backends, one meaning: [`redis`] and [`embedded`]. `tests/it/store.rs` of the executable
//! holds the conformance suite that both pass. There is one write, [`Store::commit`]; the merge
//! happens before it, in `model`, and the store only compares versions.

pub mod codec;
pub mod embedded;
pub mod redis;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use model::field::FieldName;
use model::id::{PageId, Subject};
use model::job::Claim;
use model::page::{Change, Page, Source};
use model::queue_name::QueueName;
use model::time::{FacebookTime, HostTime};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// History entries kept per Page.
pub const MAX_HISTORY: usize = 20;
/// Feed entries kept, about.
pub const MAX_FEED: u64 = 100_000;

/// Why the store did not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is read-only, full, or did not answer in time. What was asked may or
    /// may not have been done; asking again is safe.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// It answered something that makes no sense to this build.
    #[error("the store answers what this build does not understand: {0}")]
    Unexpected(String),
}

/// Something and how often it was written. Version 0: not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Counts writes, from 1.
    pub version: u64,
    /// The thing.
    pub value: T,
}

/// What the store holds of a Page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPage {
    /// Nothing.
    Unknown,
    /// The Page.
    Page(Box<Page>),
    /// Something under the Page's key that is not a Page.
    Corrupt(CorruptPage),
}

/// A Page that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorruptPage {
    /// What stands there, as far as it can be shown.
    pub raw: String,
    /// What is wrong with it.
    pub reason: String,
}

/// One visible change of one field, with the version of the Page it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Which field.
    pub field: FieldName,
    /// The value before; null: none.
    pub before: Json,
    /// The value after; null: none.
    pub after: Json,
    /// When, on Facebook's clock.
    pub changed_at: FacebookTime,
    /// How we know.
    pub source: Source,
    /// When it was written, on our clock.
    pub received_at: HostTime,
    /// The Page's version from then on.
    pub version: u64,
}

impl HistoryEntry {
    /// The entry of a change.
    pub fn new(change: &Change, at: HostTime, version: u64) -> Self {
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
            received_at: at,
            version,
        }
    }
}

/// What the feed says of one commit: which Page, which fields, never the values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedEntry {
    /// Which Page.
    pub page: PageId,
    /// Its version from then on.
    pub version: u64,
    /// Which fields changed visibly.
    pub fields: Vec<FieldName>,
    /// How we know of the first of them.
    pub source: Source,
    /// When it was written, on our clock.
    pub received_at: HostTime,
}

impl FeedEntry {
    /// What the feed says of a write; `None` if no reader sees a change.
    pub fn new(write: &PageWrite) -> Option<Self> {
        let mut fields: Vec<FieldName> = write
            .changes
            .iter()
            .map(|change| change.field.clone())
            .collect();
        fields.sort_unstable();
        fields.dedup();
        let cause = write.changes.first()?.source;
        Some(Self {
            page: write.id.clone(),
            version: write.expected + 1,
            fields,
            source: cause,
            received_at: write.received_at,
        })
    }
}

/// A place in the feed: the store's epoch and the number of the last entry seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Which life of the store. A store that was emptied starts another.
    pub epoch: String,
    /// The entry's number; 0 is before the first.
    pub position: u64,
}

impl Cursor {
    /// Takes a text in the form of its `Display`, `epoch.n`.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, n) = text.rsplit_once('.')?;
        Some(Self {
            epoch: epoch.to_owned(),
            position: n.parse().ok()?,
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.position)
    }
}

/// An answer to "what changed since?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// The next entries in order, each with the cursor behind it.
    Entries(Vec<(Cursor, FeedEntry)>),
    /// Entries are missing between the cursor and what is kept: read all Pages, go on from here.
    Trimmed(Cursor),
}

/// A kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// Jobs that could not be done: [`crate::records::dead_letter`].
    DeadLetter,
    /// The place where [`Store::check`] proves that it can write.
    Check,
    /// A login under way, by the hash of its state: [`crate::records::login`].
    Login,
    /// A login being completed: [`crate::records::grant`].
    Grant,
    /// A person who logged in: [`crate::records::connection`].
    Connection,
    /// Counts the lives of a connection; commits made with its tokens are guarded by it.
    Epoch,
    /// A person's sealed token: [`crate::records::token`].
    UserToken,
    /// A Page's sealed token, as one person gives it: [`crate::records::token`].
    PageToken,
    /// The app's subscription on a Page: [`crate::records::subscription`].
    Subscription,
    /// The one Facebook app of this store, and its own subscription: [`crate::records::app`].
    App,
    /// A limit of Facebook's that is used up: [`crate::records::throttle`].
    RateLimit,
    /// A field that Graph refused: [`crate::records::quarantine`].
    ExcludedField,
    /// One daily poll of one connection: [`crate::records::run`].
    DailyPoll,
    /// A number of the drift meter: [`crate::records::drift`].
    ChangeCount,
    /// A change that nothing had announced: [`crate::records::drift`].
    UnannouncedChange,
    /// What became of a request to erase: [`crate::records::erasure`].
    ErasureReceipt,
    /// A signed probe that came out of the worker: [`crate::records::probe`].
    Probe,
}

impl RecordKind {
    /// Its name in keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeadLetter => "dead_letter",
            Self::Check => "check",
            Self::Login => "login",
            Self::Grant => "grant",
            Self::Connection => "connection",
            Self::Epoch => "epoch",
            Self::UserToken => "user_token",
            Self::PageToken => "page_token",
            Self::Subscription => "subscription",
            Self::App => "app",
            Self::RateLimit => "rate_limit",
            Self::ExcludedField => "excluded_field",
            Self::DailyPoll => "daily_poll",
            Self::ChangeCount => "change_count",
            Self::UnannouncedChange => "unannounced_change",
            Self::ErasureReceipt => "erasure_receipt",
            Self::Probe => "probe",
        }
    }
}

/// Names a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// Its kind.
    pub kind: RecordKind,
    /// Its name within the kind.
    pub id: String,
}

impl RecordKey {
    /// The record `id` of `kind`.
    pub fn new(kind: RecordKind, id: impl Into<String>) -> Self {
        Self {
            kind,
            id: id.into(),
        }
    }
}

/// A Page to be written.
#[derive(Debug, Clone)]
pub struct PageWrite {
    /// Which.
    pub id: PageId,
    /// The version it was loaded with.
    pub expected: u64,
    /// What it is now.
    pub page: Page,
    /// What a reader sees change: goes to history and feed.
    pub changes: Vec<Change>,
    /// When, on our clock.
    pub received_at: HostTime,
}

/// A record to be written.
#[derive(Debug, Clone)]
pub enum RecordWrite {
    /// Stands from now on.
    Put {
        /// Which.
        key: RecordKey,
        /// What.
        body: Json,
        /// The version it must have; `None`: any.
        expected: Option<u64>,
        /// How long it stands; `None`: for ever.
        ttl: Option<Duration>,
    },
    /// Is gone from now on. With an expected version this takes a record exactly once.
    Delete {
        /// Which.
        key: RecordKey,
        /// The version it must have; `None`: any, or none.
        expected: Option<u64>,
    },
    /// A number that grows; it begins at 0.
    Add {
        /// Which.
        key: RecordKey,
        /// By how much.
        n: i64,
    },
}

/// When a subject is due; `None`: never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueWrite {
    /// What.
    pub subject: Subject,
    /// In which queue and when, on our clock.
    pub due: Option<(QueueName, HostTime)>,
}

/// Things that happen together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// A Page.
    pub page: Option<PageWrite>,
    /// Records.
    pub records: Vec<RecordWrite>,
    /// Records that must have exactly these versions.
    pub guards: Vec<(RecordKey, u64)>,
    /// Changes of the due index.
    pub due: Vec<DueWrite>,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// All of it stands.
    Applied,
    /// A version was not the expected one; nothing was written. Load again and decide again.
    Stale,
}

/// What [`Store::check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Which life of the store this is.
    pub epoch: String,
    /// Settings under which it must not be used, each with its remedy.
    pub errors: Vec<String>,
    /// Settings to think about, each with its remedy.
    pub warnings: Vec<String>,
}

impl Health {
    /// Returns `Ok` if the store may be used.
    pub fn into_result(self) -> Result<(), UnsafeSettings> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(UnsafeSettings(self.errors))
        }
    }
}

/// The settings for which the store must not be used, each with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store must not be used as it is set up: {}", .0.join("; "))]
pub struct UnsafeSettings(pub Vec<String>);

/// Everything durable that is not in the queue.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The Pages of these ids, in their order.
    async fn load_pages(&self, ids: &[PageId]) -> Result<Vec<Versioned<StoredPage>>, StoreError>;

    /// Known Pages in the order of their ids as text, those after `after`.
    async fn list_pages(
        &self,
        after: Option<&PageId>,
        limit: usize,
    ) -> Result<Vec<(PageId, Versioned<StoredPage>)>, StoreError>;

    /// A Page's last changes, newest first, at most [`HISTORY`].
    async fn history(&self, id: &PageId) -> Result<Vec<HistoryEntry>, StoreError>;

    /// Feed entries after a cursor; `None`: from the first that is kept.
    async fn changes_after(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Changes, StoreError>;

    /// Writes. Each commit is atomic; together they are not. `Ok` means they are as durable as the
    /// store was configured to be.
    async fn commit(&self, commits: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError>;

    /// Takes what is due by `now`: it is due again after `lease` unless a commit says otherwise. No
    /// two callers get the same claim.
    async fn claim_due(
        &self,
        queue_name: QueueName,
        now: HostTime,
        lease: Duration,
        max: usize,
    ) -> Result<Vec<Claim>, StoreError>;

    /// What is due next in a queue.
    async fn next_due(
        &self,
        queue_name: QueueName,
        limit: usize,
    ) -> Result<Vec<(Subject, HostTime)>, StoreError>;

    /// A record; `None`: not there, or expired.
    async fn load_record(&self, key: &RecordKey) -> Result<Option<Versioned<Json>>, StoreError>;

    /// Records of a kind in the order of their ids, those after `after`.
    async fn list_records(
        &self,
        kind: RecordKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Versioned<Json>)>, StoreError>;

    /// Writes something, looks at the settings, and says what it found.
    async fn check(&self) -> Result<Health, StoreError>;

    /// Takes what was deleted off the disk, too: out of logs that would replay it. Waits for that, half
    /// a minute at most.
    async fn scrub(&self) -> Result<(), StoreError>;
}

/// Loads one Page.
pub async fn load_page(
    store: &dyn Store,
    id: &PageId,
) -> Result<Versioned<StoredPage>, StoreError> {
    let mut loaded = store.load_pages(std::slice::from_ref(id)).await?;
    let missing = || StoreError::Unexpected("a load returned no entry for its Page".to_owned());
    loaded.pop().ok_or_else(missing)
}
