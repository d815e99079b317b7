//! The real store on bad days: away, poisonous, or so slow that what runs beside each other interleaves
//! differently every time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use common::store::{
    Changes, Commit, CommitOutcome, Cursor, Health, HistoryEntry, RecordKey, RecordKind,
    RecordWrite, Store, StoreError, StoredPage, Versioned,
};
use model::id::{PageId, Subject};
use model::job::Claim;
use model::queue_name::QueueName;
use model::time::HostTime;
use serde_json::Value as Json;

/// The real store, with switches for bad days.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    store: Arc<dyn Store>,
    /// Loading this Page panics.
    poison: Option<PageId>,
    /// So many commits succeed, then the server is away.
    good: AtomicU64,
    /// So many more commits fail as if the server were away.
    failures: AtomicU64,
    /// So many commits are done, and their answers get lost.
    unanswered: AtomicU64,
    /// Somebody else's writes, right after the first look at this record.
    meanwhile: Mutex<Option<(RecordKey, Vec<RecordWrite>)>>,
    /// How long it takes.
    chance: Option<Mutex<fastrand::Rng>>,
}

impl FaultyStore {
    pub(crate) fn poisoned(store: Arc<dyn Store>, poison: PageId) -> Arc<Self> {
        Arc::new(Self {
            poison: Some(poison),
            ..Self::new(store, 0, 0)
        })
    }

    pub(crate) fn away(store: Arc<dyn Store>, good: u64, failures: u64) -> Arc<Self> {
        Arc::new(Self::new(store, good, failures))
    }

    /// From now on so many commits fail.
    pub(crate) fn go_away(&self, commits: u64) {
        self.failures.store(commits, Ordering::SeqCst);
    }

    pub(crate) fn unanswered(store: Arc<dyn Store>, commits: u64) -> Arc<Self> {
        let moody = Self::new(store, 0, 0);
        moody.unanswered.store(commits, Ordering::SeqCst);
        Arc::new(moody)
    }

    pub(crate) fn overtaken(store: Arc<dyn Store>, key: RecordKey, by: RecordWrite) -> Arc<Self> {
        Arc::new(Self {
            meanwhile: Mutex::new(Some((key, vec![by]))),
            ..Self::new(store, 0, 0)
        })
    }

    pub(crate) fn hesitant(store: Arc<dyn Store>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            chance: Some(Mutex::new(fastrand::Rng::with_seed(seed))),
            ..Self::new(store, 0, 0)
        })
    }

    fn new(store: Arc<dyn Store>, good: u64, failures: u64) -> Self {
        Self {
            store,
            poison: None,
            good: AtomicU64::new(good),
            failures: AtomicU64::new(failures),
            unanswered: AtomicU64::new(0),
            meanwhile: Mutex::new(None),
            chance: None,
        }
    }

    async fn hesitate(&self) {
        let times = self
            .chance
            .as_ref()
            .map_or(0, |chance| chance.lock().unwrap().u32(0..12));
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
        self.hesitate().await;
        loaded
    }

    async fn commit(&self, commits: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError> {
        self.hesitate().await;
        let counts_down = |n: &AtomicU64| {
            let less = |n: u64| n.checked_sub(1);
            n.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
                .is_ok()
        };
        if !counts_down(&self.good) && counts_down(&self.failures) {
            return Err(StoreError::Unavailable("moody".to_owned()));
        }
        let outcomes = self.store.commit(commits).await?;
        if counts_down(&self.unanswered) {
            return Err(StoreError::Unavailable("no answer".to_owned()));
        }
        Ok(outcomes)
    }

    async fn load_record(&self, key: &RecordKey) -> Result<Option<Versioned<Json>>, StoreError> {
        let found = self.store.load_record(key).await;
        let overtaken = self
            .meanwhile
            .lock()
            .unwrap()
            .take_if(|(watched, _)| watched == key);
        if let Some((_, records)) = overtaken {
            common::records::write_records(&*self.store, records).await?;
        }
        self.hesitate().await;
        found
    }

    async fn list_records(
        &self,
        kind: RecordKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Versioned<Json>)>, StoreError> {
        let found = self.store.list_records(kind, after, limit).await;
        self.hesitate().await;
        found
    }

    async fn check(&self) -> Result<Health, StoreError> {
        self.commit(&[]).await?;
        self.store.check().await
    }

    async fn scrub(&self) -> Result<(), StoreError> {
        self.store.scrub().await
    }

    async fn list_pages(
        &self,
        after: Option<&PageId>,
        limit: usize,
    ) -> Result<Vec<(PageId, Versioned<StoredPage>)>, StoreError> {
        self.store.list_pages(after, limit).await
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
    ) -> Result<Vec<Claim>, StoreError> {
        self.store.claim_due(queue_name, now, lease, max).await
    }

    async fn next_due(
        &self,
        queue_name: QueueName,
        limit: usize,
    ) -> Result<Vec<(Subject, HostTime)>, StoreError> {
        self.store.next_due(queue_name, limit).await
    }
}
