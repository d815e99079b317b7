//! The store on Redis. All keys share the hash tag `{pagesync}`, so one script may touch several.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `{pagesync}:page:<id>` | hash | a Page: one plain text per field (see [`super::codec`]) |
//! | `{pagesync}:pages` | sorted set | the ids of all Pages, by text |
//! | `{pagesync}:history:<id>` | list | its last changes |
//! | `{pagesync}:feed`, `:feed_position` | stream, number | what changed, densely numbered |
//! | `{pagesync}:due:<queue>` | sorted set | subjects by due time |
//! | `{pagesync}:record:<kind>:<id>` | hash | a record |
//! | `{pagesync}:records:<kind>`, `:expiry:<kind>` | sorted sets | its names and ends |
//! | `{pagesync}:meta` | hash | the epoch |
//!
//! Invariant: every write of more than one key is one script. One pooled connection per batch.

pub mod client;
mod commit;
mod disk;
pub mod durability;
mod payload;
mod reply;
mod settings;

use std::time::Duration;

use async_trait::async_trait;
use model::id::{PageId, Subject};
use model::job::Claim;
use model::queue_name::QueueName;
use model::time::HostTime;
use redis::Pipeline;
use serde_json::Value as Json;

use super::codec::{from_json, subject};
use super::{
    Changes, Commit, CommitOutcome, Cursor, FeedEntry, Health, HistoryEntry, RecordKey, RecordKind,
    RecordWrite, Store, StoreError, StoredPage, Versioned, codec,
};
use client::RedisStore;
use reply::{
    PREFIX, due_key, feed_entry, feed_key, feed_position_key, history_key, index_key, meta_key,
    millis, page_key, pairs, parse, record_key, stored,
};

const CLAIM: &str = include_str!("claim.lua");
/// The version of the keys and of what they hold.
const LAYOUT: &str = "2";
/// Commits sent at once.
const BATCH: usize = 200;

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
        self.ask(&mut connection, &mut pipeline)
            .await?
            .into_iter()
            .map(stored)
            .collect()
    }

    async fn list_pages(
        &self,
        after: Option<&PageId>,
        limit: usize,
    ) -> Result<Vec<(PageId, Versioned<StoredPage>)>, StoreError> {
        let names = self
            .names(&format!("{PREFIX}:pages"), after.map(PageId::as_str), limit)
            .await?;
        let ids: Vec<PageId> = names
            .iter()
            .filter_map(|name| PageId::parse(name).ok())
            .collect();
        let pages = self.load_pages(&ids).await?;
        Ok(ids.into_iter().zip(pages).collect())
    }

    async fn history(&self, id: &PageId) -> Result<Vec<HistoryEntry>, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("LRANGE").arg(history_key(id)).arg(0).arg(-1);
        let answers = self.ask_all(&mut pipeline).await?;
        let entries: Vec<String> = parse(answers.into_iter().next())?;
        entries.iter().map(|entry| from_json(entry)).collect()
    }

    async fn changes_after(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Changes, StoreError> {
        let from = cursor.map_or(0, |cursor| cursor.position);
        let meta = meta_key();
        let mut pipeline = redis::pipe();
        // Together, or an entry written meanwhile would look like a gap.
        pipeline.atomic();
        pipeline
            .cmd("HSETNX")
            .arg(&meta)
            .arg("epoch")
            .arg(format!("{:016x}", fastrand::u64(..)));
        pipeline.cmd("HGET").arg(&meta).arg("epoch");
        pipeline.cmd("GET").arg(feed_position_key());
        pipeline
            .cmd("XRANGE")
            .arg(feed_key())
            .arg(format!("({from}-0"))
            .arg("+")
            .arg("COUNT")
            .arg(limit);
        let mut answers = self.ask_all(&mut pipeline).await?.into_iter().skip(1);
        let epoch: String = parse(answers.next())?;
        let last: Option<u64> = parse(answers.next())?;
        let entries: Vec<(String, Vec<String>)> = parse(answers.next())?;
        let last = last.unwrap_or(0);
        let entries: Vec<(u64, FeedEntry)> = entries
            .into_iter()
            .map(feed_entry)
            .collect::<Result<_, _>>()?;
        let gone = cursor.is_some_and(|cursor| {
            let missing = entries
                .first()
                .map_or(cursor.position != last, |(n, _)| *n != cursor.position + 1);
            cursor.epoch != epoch || missing
        });
        if gone {
            return Ok(Changes::Trimmed(Cursor {
                epoch,
                position: last,
            }));
        }
        let place = |n| Cursor {
            epoch: epoch.clone(),
            position: n,
        };
        Ok(Changes::Entries(
            entries
                .into_iter()
                .map(|(n, entry)| (place(n), entry))
                .collect(),
        ))
    }

    async fn commit(&self, commits: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError> {
        let mut outcomes = Vec::with_capacity(commits.len());
        for batch in commits.chunks(BATCH) {
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
    ) -> Result<Vec<Claim>, StoreError> {
        let mut pipeline = redis::pipe();
        let call = pipeline
            .cmd("EVAL")
            .arg(CLAIM)
            .arg(1)
            .arg(due_key(queue_name));
        call.arg(now.0).arg(now.plus(lease).0).arg(max);
        let taken: Vec<String> = parse(self.ask_all(&mut pipeline).await?.into_iter().next())?;
        let taken = pairs(taken)?;
        let claim = |(text, at): (String, f64)| {
            Some(Claim {
                subject: subject(&text)?,
                queue: queue_name,
                due_at: millis(at),
            })
        };
        Ok(taken.into_iter().filter_map(claim).collect())
    }

    async fn next_due(
        &self,
        queue_name: QueueName,
        limit: usize,
    ) -> Result<Vec<(Subject, HostTime)>, StoreError> {
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
        let answers = self.ask_all(&mut pipeline).await?;
        let flat: Vec<String> = parse(answers.into_iter().next())?;
        let entry = |(text, at): (String, f64)| Some((subject(&text)?, millis(at)));
        Ok(pairs(flat)?.into_iter().filter_map(entry).collect())
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
        // Names of expired records may still be in the index: go on until there are enough.
        while found.len() < limit {
            let names = self
                .names(&index_key(kind), after.as_deref(), limit - found.len())
                .await?;
            let Some(last) = names.last() else { break };
            after = Some(last.clone());
            found.extend(
                self.load_records(names.into_iter().map(|id| RecordKey { kind, id }).collect())
                    .await?,
            );
        }
        Ok(found)
    }

    async fn scrub(&self) -> Result<(), StoreError> {
        self.rewrite_log().await
    }

    async fn check(&self) -> Result<Health, StoreError> {
        // First: a server that is set up wrongly refuses the write, too, and not so clearly.
        let (mut errors, warnings) = self.settings().await?;
        errors.extend(self.claim_layout().await?);
        if !errors.is_empty() {
            return Ok(Health {
                epoch: String::new(),
                errors,
                warnings,
            });
        }
        let key = RecordKey::new(RecordKind::Check, "write");
        let put = RecordWrite::Put {
            key,
            body: Json::from(fastrand::u32(..)),
            expected: None,
            ttl: None,
        };
        self.commit(&[Commit {
            records: vec![put],
            ..Commit::default()
        }])
        .await?;
        let epoch = self.epoch().await?;
        Ok(Health {
            epoch,
            errors,
            warnings,
        })
    }
}

impl RedisStore {
    /// Records the layout of the keys in an empty database, and returns an error text if the database
    /// has another layout than this build.
    async fn claim_layout(&self) -> Result<Option<String>, StoreError> {
        let mut pipeline = redis::pipe();
        let meta = meta_key();
        pipeline.cmd("HMGET").arg(&meta).arg("epoch").arg("layout");
        let found: Vec<Option<String>> = parse(self.ask_all(&mut pipeline).await?.pop())?;
        match found.as_slice() {
            [_, Some(layout)] if layout == LAYOUT => Ok(None),
            // The layout is written before the epoch, so an epoch without one is of pagesync 0.1.
            [None, None] => {
                let mut pipeline = redis::pipe();
                pipeline.cmd("HSETNX").arg(&meta).arg("layout").arg(LAYOUT);
                self.ask_all(&mut pipeline).await.map(|_| None)
            }
            _ => Ok(Some(format!(
                "Redis holds data that another version of pagesync wrote, this build reads layout {LAYOUT}: use an empty database"
            ))),
        }
    }

    /// Returns the epoch of the database, and makes one if there is none.
    async fn epoch(&self) -> Result<String, StoreError> {
        let mut pipeline = redis::pipe();
        let meta = meta_key();
        pipeline
            .cmd("HSETNX")
            .arg(&meta)
            .arg("epoch")
            .arg(format!("{:016x}", fastrand::u64(..)));
        pipeline.cmd("HGET").arg(&meta).arg("epoch");
        parse(self.ask_all(&mut pipeline).await?.pop())
    }

    /// Members of an index in text order.
    async fn names(
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
        parse(self.ask_all(&mut pipeline).await?.pop())
    }

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
        let mut found = Vec::new();
        for (key, answer) in keys.into_iter().zip(self.ask_all(&mut pipeline).await?) {
            let (version, body): (Option<u64>, Option<String>) = parse(Some(answer))?;
            if let (Some(version), Some(body)) = (version, body) {
                found.push((
                    key,
                    Versioned {
                        version,
                        value: from_json(&body)?,
                    },
                ));
            }
        }
        Ok(found)
    }
}
