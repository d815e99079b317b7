//! The store on Redis. All keys share the hash tag `{pagesync}`, so one script may touch several.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `{pagesync}:page:<id>` | hash | a Page: one plain text per field (see [`super::codec`]) |
//! | `{pagesync}:pages` | sorted set | the ids of all Pages, by text |
//! | `{pagesync}:history:<id>` | list | its last changes |
//! | `{pagesync}:feed`, `:feed_n` | stream, number | what changed, densely numbered |
//! | `{pagesync}:due:<lane>` | sorted set | subjects by due time |
//! | `{pagesync}:record:<kind>:<id>` | hash | a record |
//! | `{pagesync}:records:<kind>`, `:expiry:<kind>` | sorted sets | its names and ends |
//! | `{pagesync}:meta` | hash | the epoch |
//!
//! Invariant: every write of more than one key is one script. One pooled connection per batch.

mod disk;
mod payload;
mod reply;
mod settings;

use std::time::Duration;

use async_trait::async_trait;
use deadpool_redis::{Connection, Manager, Pool, Runtime};
use model::id::{PageId, Subject};
use model::job::Claim;
use model::lane::Lane;
use model::time::Millis;
use redis::{
    AsyncConnectionConfig, IntoConnectionInfo as _, Pipeline, RedisResult, Script, ServerErrorKind,
    Value as Reply,
};
use serde_json::Value as Json;

use super::codec::{from_json, subject};
use super::{
    Changes, Commit, Cursor, FeedEntry, Health, HistoryEntry, Key, Kind, Outcome, RecordWrite,
    Store, StoreError, Stored, Versioned, codec,
};
use disk::{cannot_be_polled_again, wait_for_disk};
use payload::Payload;
use reply::{
    PREFIX, due_key, feed_entry, feed_key, feed_n_key, history_key, index_key, millis, outcome,
    page_key, pairs, parse, record_key, stored, unavailable,
};

/// Our deadline for connecting and for every answer: the client's default, 500 ms, is too short for
/// a server that is writing its log.
const DEADLINE: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 16;
const COMMIT: &str = include_str!("commit.lua");
const CLAIM: &str = include_str!("claim.lua");
/// Commits sent at once.
const BATCH: usize = 200;

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When Redis has it; its log reaches the disk within a second. Polls heal what a crash takes.
    Relaxed,
    /// When Redis' log is on disk.
    Fsync,
}

/// The store of a distributed deployment.
pub struct RedisStore {
    pool: Pool,
    durability: Durability,
    commit: Script,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore")
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Uses the server at `url` (`redis://user:password@host:6379/0`). Connects when first asked.
    pub fn open(url: &str, durability: Durability) -> Result<Self, StoreError> {
        let refuse = |_| {
            let shape = "the store's address is not of the form redis://user:password@host:6379/0";
            StoreError::Unavailable(shape.to_owned())
        };
        let info = url.into_connection_info().map_err(refuse)?;
        let tcp = redis::io::tcp::TcpSettings::default()
            .set_nodelay(true)
            .set_user_timeout(DEADLINE);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let manager =
            Manager::new_with_config(info.set_tcp_settings(tcp), config).map_err(refuse)?;
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(DEADLINE))
            .create_timeout(Some(DEADLINE))
            .recycle_timeout(Some(DEADLINE))
            .build()
            .map_err(|error| StoreError::Unexpected(error.to_string()))?;
        Ok(Self {
            pool,
            durability,
            commit: Script::new(COMMIT),
        })
    }

    async fn connection(&self) -> Result<Connection, StoreError> {
        self.pool
            .get()
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    /// Sends commands together; each has its own answer.
    async fn ask(
        &self,
        connection: &mut Connection,
        pipeline: &mut Pipeline,
    ) -> Result<Vec<RedisResult<Reply>>, StoreError> {
        pipeline
            .ignore_errors()
            .query_async(connection)
            .await
            .map_err(|error| unavailable(&error))
    }

    /// Sends commands together; one failing fails all.
    async fn ask_all(&self, pipeline: &mut Pipeline) -> Result<Vec<Reply>, StoreError> {
        let mut connection = self.connection().await?;
        let answers = self.ask(&mut connection, pipeline).await?;
        answers
            .into_iter()
            .map(|answer| answer.map_err(|error| unavailable(&error)))
            .collect()
    }

    async fn commit_batch(&self, commits: &[Commit]) -> Result<Vec<Outcome>, StoreError> {
        let payloads: Vec<Payload> = commits.iter().map(Payload::new).collect();
        let mut connection = self.connection().await?;
        let mut outcomes: Vec<Option<Outcome>> = vec![None; payloads.len()];
        // By its name; where the server does not know it (any more), by its text: others may flush the
        // scripts between two calls.
        for (command, script) in [("EVALSHA", self.commit.get_hash()), ("EVAL", COMMIT)] {
            let open: Vec<usize> = (0..payloads.len())
                .filter(|i| outcomes[*i].is_none())
                .collect();
            let mut pipeline = Pipeline::with_capacity(open.len());
            for i in &open {
                let Payload { keys, commit } = &payloads[*i];
                let call = pipeline.cmd(command).arg(script).arg(keys.len());
                call.arg(keys).arg(commit);
            }
            let mut is_known = true;
            for (i, answer) in open
                .into_iter()
                .zip(self.ask(&mut connection, &mut pipeline).await?)
            {
                match answer {
                    Ok(reply) => outcomes[i] = Some(outcome(reply)?),
                    Err(error) if error.kind() == ServerErrorKind::NoScript.into() => {
                        is_known = false;
                    }
                    Err(error) => {
                        if error.kind() == ServerErrorKind::ReadOnly.into() {
                            // A replica since a failover: this connection must not come back.
                            drop(Connection::take(connection));
                        }
                        return Err(unavailable(&error));
                    }
                }
            }
            if is_known {
                break;
            }
        }
        if self.durability == Durability::Fsync {
            wait_for_disk(&mut connection).await?;
        } else if commits.iter().any(cannot_be_polled_again) {
            // As far as this server can say; `check` warns of one that cannot.
            if let Err(error) = wait_for_disk(&mut connection).await {
                tracing::debug!(error = %error, "a token was written, and is not known to be on disk");
            }
        }
        let unanswered = || StoreError::Unexpected("a commit without an answer".to_owned());
        outcomes
            .into_iter()
            .map(|outcome| outcome.ok_or_else(unanswered))
            .collect()
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn load(&self, ids: &[PageId]) -> Result<Vec<Versioned<Stored>>, StoreError> {
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

    async fn pages(
        &self,
        after: Option<&PageId>,
        limit: usize,
    ) -> Result<Vec<(PageId, Versioned<Stored>)>, StoreError> {
        let names = self
            .names(&format!("{PREFIX}:pages"), after.map(PageId::as_str), limit)
            .await?;
        let ids: Vec<PageId> = names
            .iter()
            .filter_map(|name| PageId::parse(name).ok())
            .collect();
        let pages = self.load(&ids).await?;
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
        let from = cursor.map_or(0, |cursor| cursor.n);
        let meta = format!("{PREFIX}:meta");
        let mut pipeline = redis::pipe();
        // Together, or an entry written meanwhile would look like a gap.
        pipeline.atomic();
        pipeline
            .cmd("HSETNX")
            .arg(&meta)
            .arg("epoch")
            .arg(format!("{:016x}", fastrand::u64(..)));
        pipeline.cmd("HGET").arg(&meta).arg("epoch");
        pipeline.cmd("GET").arg(feed_n_key());
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
                .map_or(cursor.n != last, |(n, _)| *n != cursor.n + 1);
            cursor.epoch != epoch || missing
        });
        if gone {
            return Ok(Changes::Gap(Cursor { epoch, n: last }));
        }
        let place = |n| Cursor {
            epoch: epoch.clone(),
            n,
        };
        Ok(Changes::Entries(
            entries
                .into_iter()
                .map(|(n, entry)| (place(n), entry))
                .collect(),
        ))
    }

    async fn commit(&self, commits: &[Commit]) -> Result<Vec<Outcome>, StoreError> {
        let mut outcomes = Vec::with_capacity(commits.len());
        for batch in commits.chunks(BATCH) {
            outcomes.extend(self.commit_batch(batch).await?);
        }
        Ok(outcomes)
    }

    async fn claim_due(
        &self,
        lane: Lane,
        now: Millis,
        lease: Duration,
        max: usize,
    ) -> Result<Vec<Claim>, StoreError> {
        let mut pipeline = redis::pipe();
        let call = pipeline.cmd("EVAL").arg(CLAIM).arg(1).arg(due_key(lane));
        call.arg(now.0).arg(now.plus(lease).0).arg(max);
        let taken: Vec<String> = parse(self.ask_all(&mut pipeline).await?.into_iter().next())?;
        let taken = pairs(taken)?;
        let claim = |(text, at): (String, f64)| {
            Some(Claim {
                subject: subject(&text)?,
                lane,
                due: millis(at),
            })
        };
        Ok(taken.into_iter().filter_map(claim).collect())
    }

    async fn due(&self, lane: Lane, limit: usize) -> Result<Vec<(Subject, Millis)>, StoreError> {
        let Some(last) = limit.checked_sub(1) else {
            return Ok(Vec::new());
        };
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("ZRANGE")
            .arg(due_key(lane))
            .arg(0)
            .arg(last)
            .arg("WITHSCORES");
        let answers = self.ask_all(&mut pipeline).await?;
        let flat: Vec<String> = parse(answers.into_iter().next())?;
        let entry = |(text, at): (String, f64)| Some((subject(&text)?, millis(at)));
        Ok(pairs(flat)?.into_iter().filter_map(entry).collect())
    }

    async fn record(&self, key: &Key) -> Result<Option<Versioned<Json>>, StoreError> {
        Ok(self
            .load_records(vec![key.clone()])
            .await?
            .pop()
            .map(|(_, record)| record))
    }

    async fn records(
        &self,
        kind: Kind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Key, Versioned<Json>)>, StoreError> {
        let mut found: Vec<(Key, Versioned<Json>)> = Vec::new();
        let mut after = after.map(ToOwned::to_owned);
        // Names of expired records may still be in the index: go on until there are enough.
        while found.len() < limit {
            let names = self
                .names(&index_key(kind), after.as_deref(), limit - found.len())
                .await?;
            let Some(last) = names.last() else { break };
            after = Some(last.clone());
            found.extend(
                self.load_records(names.into_iter().map(|id| Key { kind, id }).collect())
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
        let (refusals, warnings) = self.settings().await?;
        if !refusals.is_empty() {
            return Ok(Health {
                epoch: String::new(),
                refusals,
                warnings,
            });
        }
        let key = Key::new(Kind::Check, "write");
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
        let mut pipeline = redis::pipe();
        let meta = format!("{PREFIX}:meta");
        pipeline
            .cmd("HSETNX")
            .arg(&meta)
            .arg("epoch")
            .arg(format!("{:016x}", fastrand::u64(..)));
        pipeline.cmd("HGET").arg(&meta).arg("epoch");
        let epoch = parse(self.ask_all(&mut pipeline).await?.pop())?;
        Ok(Health {
            epoch,
            refusals,
            warnings,
        })
    }
}

impl RedisStore {
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
        keys: Vec<Key>,
    ) -> Result<Vec<(Key, Versioned<Json>)>, StoreError> {
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
