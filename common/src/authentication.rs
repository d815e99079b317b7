//! Checks the key of a request, and caches the records of keys.
//!
//! Invariant: a revoked key works for at most five seconds more, for which its record is cached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::time::HostTime;

use crate::problem::{Code, Problem};
use crate::records::api_key::{self, ApiKey};
use crate::store::{Store, StoreError};

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
pub struct KeyCache(Mutex<HashMap<String, Loaded>>);

impl KeyCache {
    /// Returns the id and the record of the key in the header `Authorization`. Fails unless the key can
    /// be used at `now`.
    pub async fn authenticate(
        &self,
        store: &dyn Store,
        header: Option<&str>,
        now: HostTime,
    ) -> Result<(String, Arc<ApiKey>), Problem> {
        let refused = |detail| Problem::new(Code::Unauthorized, detail);
        let header = header.ok_or_else(|| {
            refused("the request has no header `Authorization: Bearer <key>`: `pagesync api-key create` makes a key")
        })?;
        // The name of the scheme has no case (RFC 9110).
        let (scheme, text) = header.split_once(' ').unwrap_or((header, ""));
        let text = text.trim();
        let unknown = "the key is not known, has ended or was revoked: `pagesync api-key list` shows all keys";
        let id = (scheme.eq_ignore_ascii_case("bearer"))
            .then(|| api_key::id_in(text))
            .flatten()
            .ok_or_else(|| refused(unknown))?;
        let is_valid = |key: &Arc<ApiKey>| api_key::matches(key, text) && key.is_usable(now);
        let key = self.find(store, id).await?.filter(is_valid);
        let key = key.ok_or_else(|| refused(unknown))?;
        Ok((id.to_owned(), key))
    }

    /// Fails if a key that was checked before cannot be used any more.
    pub async fn require_usable(
        &self,
        store: &dyn Store,
        id: &str,
        now: HostTime,
    ) -> Result<(), Problem> {
        let key = self.find(store, id).await?;
        let is_usable = key.is_some_and(|key| key.is_usable(now));
        let ended = || Problem::new(Code::Unauthorized, "the key has ended or was revoked");
        is_usable.then_some(()).ok_or_else(ended)
    }

    async fn find(&self, store: &dyn Store, id: &str) -> Result<Option<Arc<ApiKey>>, StoreError> {
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
