//! Caches the records of keys.
//!
//! Invariant: a revoked key works for at most [`CACHE_TIME`] more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::records::api_key::{self, ApiKey};
use common::store::{Store, StoreError};

/// How long the record of a key is cached.
const CACHE_TIME: Duration = Duration::from_secs(5);
/// How many records are cached. Requests with invented ids must not fill the memory.
const CACHE_SIZE: usize = 1000;

/// The record of a key as it was loaded.
#[derive(Debug, Clone)]
struct Loaded {
    at: Instant,
    /// `None` if there is no such key.
    record: Option<Arc<ApiKey>>,
}

/// The records of the keys that were used last, by id.
#[derive(Debug, Default)]
pub(crate) struct KeyCache(Mutex<HashMap<String, Loaded>>);

impl KeyCache {
    /// Returns the record of a key, or `None` if there is none.
    pub(crate) async fn find(
        &self,
        store: &dyn Store,
        id: &str,
    ) -> Result<Option<Arc<ApiKey>>, StoreError> {
        if let Some(loaded) = self.cached(id) {
            return Ok(loaded.record);
        }
        let record = api_key::find(store, id).await?.map(Arc::new);
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() >= CACHE_SIZE {
            records.clear();
        }
        let loaded = Loaded {
            at: Instant::now(),
            record: record.clone(),
        };
        records.insert(id.to_owned(), loaded);
        Ok(record)
    }

    fn cached(&self, id: &str) -> Option<Loaded> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = records.get(id)?;
        (loaded.at.elapsed() < CACHE_TIME).then(|| loaded.clone())
    }
}
