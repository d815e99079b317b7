//! Counts Pages by their status.
//!
//! Invariant: `commit.lua` moves a Page from the index of its former status to that of its new one. A
//! worker corrects the indexes when it starts and once a day, because an earlier version may have
//! written Pages without them.

use std::collections::BTreeMap;

use model::page::Status;

use super::client::RedisStore;
use super::reply::{PREFIX, parse};
use crate::store::StoreError;
use crate::store::codec::to_json;

/// The script that corrects the entries of some Pages.
const REINDEX_SCRIPT: &str = include_str!("reindex.lua");
/// The number of Pages in one call of the script.
const CHUNK: usize = 500;

/// Returns the key of the sorted set with the ids of the Pages that have a status.
pub(super) fn status_key(status: Status) -> String {
    format!("{PREFIX}:pages:{status}")
}

impl RedisStore {
    /// Returns the number of Pages with each status.
    pub(super) async fn page_counts(&self) -> Result<BTreeMap<Status, u64>, StoreError> {
        let mut pipeline = redis::pipe();
        // A transaction makes the replies describe the same state of the database.
        pipeline.atomic();
        for status in Status::ALL {
            pipeline.cmd("ZCARD").arg(status_key(status));
        }
        let mut replies = self.query_all(&mut pipeline).await?.into_iter();
        let mut counts = BTreeMap::new();
        for status in Status::ALL {
            counts.insert(status, parse(replies.next())?);
        }
        Ok(counts)
    }

    /// Corrects the indexes for every Page.
    pub(super) async fn reindex(&self) -> Result<(), StoreError> {
        let names: Vec<String> = Status::ALL.map(|status| status.to_string()).to_vec();
        let indexes = Status::ALL.map(status_key);
        let mut after: Option<String> = None;
        loop {
            let pages = format!("{PREFIX}:pages");
            let ids = self.index_members(&pages, after.as_deref(), CHUNK).await?;
            let Some(last) = ids.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            let mut pipeline = redis::pipe();
            let call = pipeline.cmd("EVAL").arg(REINDEX_SCRIPT);
            call.arg(1 + indexes.len() + ids.len());
            call.arg(status_key(Status::Corrupt)).arg(&indexes);
            call.arg(
                ids.iter()
                    .map(|id| format!("{PREFIX}:page:{id}"))
                    .collect::<Vec<_>>(),
            );
            call.arg(to_json(&names)).arg(to_json(&ids));
            self.query_all(&mut pipeline).await?;
        }
    }
}
