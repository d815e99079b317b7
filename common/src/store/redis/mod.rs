//! Implements the store on Redis.
//!
//! All keys share the hash tag `{pagesync}`, so that one script may touch several of them in a
//! cluster.
//!
//! | key | type | content |
//! |---|---|---|
//! | `{pagesync}:page:<id>` | hash | a Page, one attribute per field (see [`super::codec`]) |
//! | `{pagesync}:pages` | sorted set | the ids of all Pages, ordered as text |
//! | `{pagesync}:pages:<status>` | sorted set | the ids of the Pages with a status |
//! | `{pagesync}:history:<id>` | list | the last changes of a Page, the newest first |
//! | `{pagesync}:feed` | stream | the change feed |
//! | `{pagesync}:feed_position` | number | the number of the last entry of the change feed |
//! | `{pagesync}:feed_changes` | hash | the changed values of each entry of the change feed |
//! | `{pagesync}:page_index` | sorted set | the ids of all Pages by client and by connection, and of the unpublished ones |
//! | `{pagesync}:due:<queue>` | sorted set | the subjects of a queue by due time |
//! | `{pagesync}:record:<kind>:<id>` | hash | a record |
//! | `{pagesync}:records:<kind>` | sorted set | the ids of all records of a kind |
//! | `{pagesync}:expiry:<kind>` | sorted set | the ids of expiring records by expiry time |
//! | `{pagesync}:meta` | hash | the epoch and the layout |
//!
//! Invariant: every commit is one call of `commit.lua`.

pub mod client;
mod commit;
mod disk;
pub mod durability;
mod feed;
mod page_indexes;
mod payload;
mod reply;
mod settings;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use model::id::PageId;
use model::page::Status;
use model::polling::MAX_DUE_AHEAD;
use model::queue_name::QueueName;
use model::time::HostTime;
use redis::Pipeline;
use serde_json::Value as Json;

use super::codec::from_json;
use super::{
    Changes, ClaimedEntries, Commit, CommitOutcome, Cursor, DueEntry, Health, HistoryEntry,
    PageIndex, RecordKey, RecordKind, RecordWrite, Store, StoreError, StoredPage, Versioned, codec,
};
use client::RedisStore;
use reply::{
    due_entries, due_key, history_key, index_key, meta_key, page_key, parse, record_key,
    stored_page, stored_record,
};

/// The script that makes entries of the due index due now that lie too far ahead.
const PULL_BACK_SCRIPT: &str = include_str!("pull_back.lua");
/// The script that claims due subjects.
const CLAIM_SCRIPT: &str = include_str!("claim.lua");
/// The version of the keys and their contents.
const LAYOUT: &str = "2";
/// The largest number of commits in one pipeline.
const MAX_BATCH_COMMITS: usize = 200;

#[async_trait]
impl Store for RedisStore {
    async fn load_pages(&self, ids: &[PageId]) -> Result<Vec<Versioned<StoredPage>>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(ids.len());
        for id in ids {
            pipeline.cmd("HGETALL").arg(page_key(id));
        }
        let mut connection = self.connection().await?;
        self.query_each(&mut connection, &mut pipeline)
            .await?
            .into_iter()
            .map(stored_page)
            .collect()
    }

    async fn list_pages(
        &self,
        index: &PageIndex,
        after: Option<&PageId>,
        limit: usize,
    ) -> Result<Vec<(PageId, Versioned<StoredPage>)>, StoreError> {
        let ids = self
            .indexed_ids(index, after.map(PageId::as_str), limit)
            .await?;
        let ids: Vec<PageId> = ids.iter().filter_map(|id| PageId::parse(id).ok()).collect();
        let pages = self.load_pages(&ids).await?;
        Ok(ids.into_iter().zip(pages).collect())
    }

    async fn count_pages(&self) -> Result<BTreeMap<Status, u64>, StoreError> {
        self.page_counts().await
    }

    async fn correct_page_indexes(&self) -> Result<(), StoreError> {
        self.reindex().await
    }

    async fn history(&self, id: &PageId) -> Result<Vec<HistoryEntry>, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("LRANGE").arg(history_key(id)).arg(0).arg(-1);
        let replies = self.query_all(&mut pipeline).await?;
        let entries: Vec<String> = parse(replies.into_iter().next())?;
        entries.iter().map(|entry| from_json(entry)).collect()
    }

    async fn changes_after(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Changes, StoreError> {
        self.feed_after(cursor, limit).await
    }

    async fn newest_cursor(&self) -> Result<Cursor, StoreError> {
        self.feed_end().await
    }

    async fn forget_erased_changes(&self) -> Result<(), StoreError> {
        self.forget_feed_changes().await
    }

    async fn commit(&self, commits: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError> {
        let mut outcomes = Vec::with_capacity(commits.len());
        for batch in commits.chunks(MAX_BATCH_COMMITS) {
            outcomes.extend(self.commit_batch(batch).await?);
        }
        Ok(outcomes)
    }

    async fn claim_due(
        &self,
        queue_name: QueueName,
        now: HostTime,
        lease: Duration,
        max: usize,
    ) -> Result<ClaimedEntries, StoreError> {
        let mut pipeline = redis::pipe();
        let call = pipeline
            .cmd("EVAL")
            .arg(CLAIM_SCRIPT)
            .arg(1)
            .arg(due_key(queue_name));
        call.arg(now.0).arg(now.plus(lease).0).arg(max);
        let replies = self.query_all(&mut pipeline).await?;
        let claimed = due_entries(parse(replies.into_iter().next())?)?;
        Ok(ClaimedEntries::new(queue_name, claimed))
    }

    async fn next_due(
        &self,
        queue_name: QueueName,
        limit: usize,
    ) -> Result<Vec<DueEntry>, StoreError> {
        let Some(last) = limit.checked_sub(1) else {
            return Ok(Vec::new());
        };
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("ZRANGE")
            .arg(due_key(queue_name))
            .arg(0)
            .arg(last)
            .arg("WITHSCORES");
        let replies = self.query_all(&mut pipeline).await?;
        due_entries(parse(replies.into_iter().next())?)
    }

    async fn pull_back_due_times(&self) -> Result<u64, StoreError> {
        let keys = QueueName::POLLS.map(due_key);
        let max_ahead = MAX_DUE_AHEAD.as_millis().to_string();
        let mut pipeline = redis::pipe();
        let call = pipeline.cmd("EVAL").arg(PULL_BACK_SCRIPT).arg(keys.len());
        call.arg(&keys).arg(max_ahead);
        let replies = self.query_all(&mut pipeline).await?;
        parse(replies.into_iter().next())
    }

    async fn now(&self) -> Result<HostTime, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME");
        let replies = self.query_all(&mut pipeline).await?;
        let (seconds, micros): (u64, u64) = parse(replies.into_iter().next())?;
        Ok(HostTime(seconds * 1000 + micros / 1000))
    }

    async fn load_record(&self, key: &RecordKey) -> Result<Option<Versioned<Json>>, StoreError> {
        Ok(self
            .load_records(vec![key.clone()])
            .await?
            .pop()
            .map(|(_, record)| record))
    }

    async fn list_records(
        &self,
        kind: RecordKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Versioned<Json>)>, StoreError> {
        let mut found: Vec<(RecordKey, Versioned<Json>)> = Vec::new();
        let mut after = after.map(ToOwned::to_owned);
        // The index may still contain expired records, so it is read until enough records are
        // found.
        while found.len() < limit {
            let ids = self
                .index_members(&index_key(kind), after.as_deref(), limit - found.len())
                .await?;
            let Some(last) = ids.last() else { break };
            after = Some(last.clone());
            found.extend(
                self.load_records(ids.into_iter().map(|id| RecordKey { kind, id }).collect())
                    .await?,
            );
        }
        Ok(found)
    }

    async fn scrub(&self) -> Result<(), StoreError> {
        self.rewrite_log().await
    }

    async fn confirm(&self) -> Result<(), StoreError> {
        // The log and the replicas receive writes in their order, so this write vouches for all
        // earlier ones.
        let key = RecordKey::new(RecordKind::Check, "write");
        let put = RecordWrite::Put {
            key,
            body: Json::from(fastrand::u32(..)),
            expected: None,
            ttl: None,
        };
        let commit = Commit {
            records: vec![put],
            ..Commit::default()
        };
        self.commit(&[commit]).await.map(drop)
    }

    async fn check(&self) -> Result<Health, StoreError> {
        // The settings are checked first, because a server with wrong settings may also refuse the
        // write, with a less helpful error.
        let (mut errors, warnings) = self.settings().await?;
        errors.extend(self.check_layout().await?);
        if !errors.is_empty() {
            return Ok(Health {
                epoch: String::new(),
                errors,
                warnings,
            });
        }
        self.confirm().await?;
        let epoch = self.epoch().await?;
        Ok(Health {
            epoch,
            errors,
            warnings,
        })
    }
}

impl RedisStore {
    /// Stores the layout in an empty database. Returns an error text if the database has another
    /// layout than this build.
    async fn check_layout(&self) -> Result<Option<String>, StoreError> {
        let mut pipeline = redis::pipe();
        let meta = meta_key();
        pipeline.cmd("HMGET").arg(&meta).arg("epoch").arg("layout");
        let found: Vec<Option<String>> = parse(self.query_all(&mut pipeline).await?.pop())?;
        match found.as_slice() {
            [_, Some(layout)] if layout == LAYOUT => Ok(None),
            // The layout is written before the epoch. A database that has only an epoch was written
            // by pagesync 0.1.
            [None, None] => {
                let mut pipeline = redis::pipe();
                pipeline.cmd("HSETNX").arg(&meta).arg("layout").arg(LAYOUT);
                self.query_all(&mut pipeline).await.map(|_| None)
            }
            _ => Ok(Some(format!(
                "Redis contains data of another version of pagesync, and this build reads layout {LAYOUT}: use an empty database"
            ))),
        }
    }

    /// Returns the epoch of the database. If there is none, stores the layout and then a new epoch.
    async fn epoch(&self) -> Result<String, StoreError> {
        let meta = meta_key();
        let mut pipeline = redis::pipe();
        pipeline.cmd("HGET").arg(&meta).arg("epoch");
        let found: Option<String> = parse(self.query_all(&mut pipeline).await?.pop())?;
        if let Some(epoch) = found {
            return Ok(epoch);
        }
        let new = format!("{:016x}", fastrand::u64(..));
        let mut pipeline = redis::pipe();
        pipeline.cmd("HSETNX").arg(&meta).arg("layout").arg(LAYOUT);
        pipeline.cmd("HSETNX").arg(&meta).arg("epoch").arg(new);
        pipeline.cmd("HGET").arg(&meta).arg("epoch");
        parse(self.query_all(&mut pipeline).await?.pop())
    }

    /// Returns up to `limit` members of an index that are greater than `after`, ordered as text.
    async fn index_members(
        &self,
        index: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let from = after.map_or("-".to_owned(), |after| format!("({after}"));
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("ZRANGEBYLEX")
            .arg(index)
            .arg(from)
            .arg("+")
            .arg("LIMIT")
            .arg(0)
            .arg(limit);
        parse(self.query_all(&mut pipeline).await?.pop())
    }

    /// Returns the records with these keys that exist.
    async fn load_records(
        &self,
        keys: Vec<RecordKey>,
    ) -> Result<Vec<(RecordKey, Versioned<Json>)>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in &keys {
            pipeline
                .cmd("HMGET")
                .arg(record_key(key))
                .arg(codec::VERSION)
                .arg("body");
        }
        let mut connection = self.connection().await?;
        let replies = self.query_each(&mut connection, &mut pipeline).await?;
        let mut found = Vec::new();
        for (key, reply) in keys.into_iter().zip(replies) {
            if let Some(record) = stored_record(reply)? {
                found.push((key, record));
            }
        }
        Ok(found)
    }
}
