//! Lists Pages by status, client and connection and the unpublished ones, and counts Pages by status.
//!
//! Invariant: `commit.lua` keeps the indexes in the commit that changes a Page. A worker corrects them
//! when it starts and once a day, because an earlier version may have written Pages without them.

use std::collections::BTreeMap;

use model::page::Status;

use super::client::RedisStore;
use super::reply::{PREFIX, page_index_key, parse};
use crate::store::codec::to_json;
use crate::store::{PageIndex, StoreError};

/// The script that corrects the entries of some Pages.
const REINDEX_SCRIPT: &str = include_str!("reindex.lua");
/// The number of Pages in one call of the script.
const CHUNK: usize = 500;

/// Returns the key of the sorted set with the ids of the Pages that have a status.
pub(super) fn status_key(status: Status) -> String {
    format!("{PREFIX}:pages:{status}")
}

impl RedisStore {
    /// Returns up to `limit` ids of an index that are greater than `after`.
    pub(super) async fn indexed_ids(
        &self,
        index: &PageIndex,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let (kind, value) = match index {
            PageIndex::All => {
                let pages = format!("{PREFIX}:pages");
                return self.index_members(&pages, after, limit).await;
            }
            PageIndex::Status(status) => {
                return self.index_members(&status_key(*status), after, limit).await;
            }
            PageIndex::Client(client) => ("client", client.as_str()),
            PageIndex::Connection(user) => ("connection", user.as_str()),
            PageIndex::Unpublished => ("unpublished", ""),
        };
        // The members are `<kind>\0<value>\0<id>`, so those of one value are neighbours. Neither a
        // client nor an id contains a control character.
        let prefix = format!("{kind}\0{value}\0");
        let from = format!("({prefix}{}", after.unwrap_or_default());
        let mut pipeline = redis::pipe();
        let call = pipeline.cmd("ZRANGEBYLEX").arg(page_index_key());
        call.arg(from).arg(format!("({kind}\0{value}\x01"));
        call.arg("LIMIT").arg(0).arg(limit);
        let members: Vec<String> = parse(self.query_all(&mut pipeline).await?.pop())?;
        let id = |member: &String| member.strip_prefix(&prefix).map(ToOwned::to_owned);
        Ok(members.iter().filter_map(id).collect())
    }

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
            call.arg(2 + indexes.len() + ids.len());
            call.arg(status_key(Status::Corrupt)).arg(&indexes);
            call.arg(page_index_key());
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
