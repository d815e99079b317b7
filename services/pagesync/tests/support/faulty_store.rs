//! A store with injected faults: commits that fail, commits whose reply is lost, a panic when a
//! certain Page is loaded, a concurrent write, or random delays.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use common::store::{
    Changes, ClaimedEntries, Commit, CommitOutcome, Cursor, DueEntry, Health, HistoryEntry,
    PageIndex, RecordKey, RecordKind, RecordWrite, Store, StoreError, StoredPage, Versioned,
};
use model::id::PageId;
use model::page::Status;
use model::queue_name::QueueName;
use model::time::HostTime;
use serde_json::Value as Json;

/// A store that forwards each call to a real store and injects faults.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    store: Arc<dyn Store>,
    /// The Page whose load panics.
    poison: Option<PageId>,
    /// How many commits succeed before the first failure.
    good_commits: AtomicU64,
    /// How many commits fail after that, as if the store did not answer.
    failing_commits: AtomicU64,
    /// How many commits are written and yet reported as failed.
    lost_replies: AtomicU64,
    /// A record, and the writes that are made right after its first load.
    concurrent_write: Mutex<Option<(RecordKey, Vec<RecordWrite>)>>,
    /// How often deleted data was removed from the disk.
    scrubs: AtomicU64,
    /// How many batches of commits were tried.
    commit_calls: AtomicU64,
    /// The source of random delays; `None` for no delays.
    delays: Option<Mutex<fastrand::Rng>>,
}

impl FaultyStore {
    /// Returns a store whose load of the Page `poison` panics.
    pub(crate) fn poisoned(store: Arc<dyn Store>, poison: PageId) -> Arc<Self> {
        Arc::new(Self {
            poison: Some(poison),
            ..Self::new(store, 0, 0)
        })
    }

    /// Returns a store in which `good` commits succeed and the `failing` commits after them fail.
    pub(crate) fn unavailable(store: Arc<dyn Store>, good: u64, failing: u64) -> Arc<Self> {
        Arc::new(Self::new(store, good, failing))
    }

    /// Returns how often deleted data was removed from the disk.
    pub(crate) fn scrubs(&self) -> u64 {
        self.scrubs.load(Ordering::SeqCst)
    }

    /// Returns how many batches of commits were tried.
    pub(crate) fn commit_calls(&self) -> u64 {
        self.commit_calls.load(Ordering::SeqCst)
    }

    /// Makes the next `commits` commits fail.
    pub(crate) fn fail_commits(&self, commits: u64) {
        self.failing_commits.store(commits, Ordering::SeqCst);
    }

    /// Returns a store that writes the next `commits` commits and yet reports that they failed.
    pub(crate) fn losing_replies(store: Arc<dyn Store>, commits: u64) -> Arc<Self> {
        let faulty = Self::new(store, 0, 0);
        faulty.lost_replies.store(commits, Ordering::SeqCst);
        Arc::new(faulty)
    }

    /// Returns a store that makes `write` right after the first load of the record `key`, as if
    /// another process had written it.
    pub(crate) fn with_concurrent_write(
        store: Arc<dyn Store>,
        key: RecordKey,
        write: RecordWrite,
    ) -> Arc<Self> {
        Arc::new(Self {
            concurrent_write: Mutex::new(Some((key, vec![write]))),
            ..Self::new(store, 0, 0)
        })
    }

    /// Returns a store whose calls take random times, so that concurrent tasks interleave in a
    /// different order for each seed.
    pub(crate) fn with_random_delays(store: Arc<dyn Store>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            delays: Some(Mutex::new(fastrand::Rng::with_seed(seed))),
            ..Self::new(store, 0, 0)
        })
    }

    fn new(store: Arc<dyn Store>, good: u64, failing: u64) -> Self {
        Self {
            store,
            poison: None,
            good_commits: AtomicU64::new(good),
            failing_commits: AtomicU64::new(failing),
            lost_replies: AtomicU64::new(0),
            scrubs: AtomicU64::new(0),
            commit_calls: AtomicU64::new(0),
            concurrent_write: Mutex::new(None),
            delays: None,
        }
    }

    /// Yields to other tasks a random number of times.
    async fn delay(&self) {
        let times = self
            .delays
            .as_ref()
            .map_or(0, |random| random.lock().unwrap().u32(0..12));
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn load_pages(&self, ids: &[PageId]) -> Result<Vec<Versioned<StoredPage>>, StoreError> {
        assert!(
            !ids.iter().any(|id| Some(id) == self.poison.as_ref()),
            "poison"
        );
        let loaded = self.store.load_pages(ids).await;
        self.delay().await;
        loaded
    }

    async fn commit(&self, commits: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError> {
        self.delay().await;
        self.commit_calls.fetch_add(1, Ordering::SeqCst);
        // Decrements a counter. Returns false if it was zero already.
        let count_down = |n: &AtomicU64| {
            let less = |n: u64| n.checked_sub(1);
            n.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
                .is_ok()
        };
        if !count_down(&self.good_commits) && count_down(&self.failing_commits) {
            return Err(StoreError::Unavailable("failed by the test".to_owned()));
        }
        let outcomes = self.store.commit(commits).await?;
        if count_down(&self.lost_replies) {
            return Err(StoreError::Unavailable("reply lost by the test".to_owned()));
        }
        Ok(outcomes)
    }

    async fn pull_back_due_times(&self) -> Result<u64, StoreError> {
        self.store.pull_back_due_times().await
    }

    async fn confirm(&self) -> Result<(), StoreError> {
        self.commit(&[]).await?;
        self.store.confirm().await
    }

    async fn now(&self) -> Result<HostTime, StoreError> {
        self.store.now().await
    }

    async fn load_record(&self, key: &RecordKey) -> Result<Option<Versioned<Json>>, StoreError> {
        let found = self.store.load_record(key).await;
        let concurrent_write = self
            .concurrent_write
            .lock()
            .unwrap()
            .take_if(|(watched, _)| watched == key);
        if let Some((_, records)) = concurrent_write {
            common::records::write_records(&*self.store, records).await?;
        }
        self.delay().await;
        found
    }

    async fn list_records(
        &self,
        kind: RecordKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Versioned<Json>)>, StoreError> {
        let found = self.store.list_records(kind, after, limit).await;
        self.delay().await;
        found
    }

    async fn check(&self) -> Result<Health, StoreError> {
        self.commit(&[]).await?;
        self.store.check().await
    }

    async fn count_pages(&self) -> Result<BTreeMap<Status, u64>, StoreError> {
        self.store.count_pages().await
    }

    async fn correct_page_indexes(&self) -> Result<(), StoreError> {
        self.store.correct_page_indexes().await
    }

    async fn scrub(&self) -> Result<(), StoreError> {
        self.scrubs.fetch_add(1, Ordering::SeqCst);
        self.store.scrub().await
    }

    async fn list_pages(
        &self,
        index: &PageIndex,
        after: Option<&PageId>,
        limit: usize,
    ) -> Result<Vec<(PageId, Versioned<StoredPage>)>, StoreError> {
        self.store.list_pages(index, after, limit).await
    }

    async fn newest_cursor(&self) -> Result<Cursor, StoreError> {
        self.store.newest_cursor().await
    }

    async fn forget_erased_changes(&self) -> Result<(), StoreError> {
        self.store.forget_erased_changes().await
    }

    async fn history(&self, id: &PageId) -> Result<Vec<HistoryEntry>, StoreError> {
        self.store.history(id).await
    }

    async fn changes_after(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Changes, StoreError> {
        self.store.changes_after(cursor, limit).await
    }

    async fn claim_due(
        &self,
        queue_name: QueueName,
        now: HostTime,
        lease: Duration,
        max: usize,
    ) -> Result<ClaimedEntries, StoreError> {
        self.store.claim_due(queue_name, now, lease, max).await
    }

    async fn next_due(
        &self,
        queue_name: QueueName,
        limit: usize,
    ) -> Result<Vec<DueEntry>, StoreError> {
        self.store.next_due(queue_name, limit).await
    }
}
