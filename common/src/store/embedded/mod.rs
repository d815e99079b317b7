//! Implements the store in the embedded database.
//!
//! Invariant: each commit is a savepoint in a transaction of the writer thread, and has the same
//! effect as `commit.lua` has on Redis.

mod commit;
mod feed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::id::PageId;
use model::page::Status;
use model::polling::MAX_DUE_AHEAD;
use model::queue_name::QueueName;
use model::time::HostTime;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::Value as Json;

use super::codec::{from_json, record_body};
use super::{
    Changes, ClaimedEntries, Commit, CommitOutcome, CorruptPage, Cursor, DueEntry, Health,
    HistoryEntry, PageIndex, RecordKey, RecordKind, RecordWrite, Store, StoreError, StoredPage,
    Versioned, codec,
};
use crate::clock::Clock;
use crate::database::{Database, DatabaseError};
use commit::{apply_commit, signed};

/// The store of a deployment that runs in one process.
#[derive(Debug)]
pub struct EmbeddedStore {
    database: Arc<Database>,
    clock: Clock,
}

impl EmbeddedStore {
    /// Returns the store in `database`. Records expire by `clock`.
    pub fn new(database: Arc<Database>, clock: Clock) -> Self {
        Self { database, clock }
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.database.read(query).await.map_err(unavailable)
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn load_pages(&self, ids: &[PageId]) -> Result<Vec<Versioned<StoredPage>>, StoreError> {
        let ids = ids.to_vec();
        self.read(move |connection| {
            let mut select =
                connection.prepare_cached("SELECT version, attributes FROM pages WHERE id = ?1")?;
            let unknown = || Versioned {
                version: 0,
                value: StoredPage::Unknown,
            };
            ids.iter()
                .map(|id| {
                    Ok(select
                        .query_row([id.as_str()], |row| stored_page(row, 0))
                        .optional()?
                        .unwrap_or_else(unknown))
                })
                .collect()
        })
        .await
    }

    async fn list_pages(
        &self,
        index: &PageIndex,
        after: Option<&PageId>,
        limit: usize,
    ) -> Result<Vec<(PageId, Versioned<StoredPage>)>, StoreError> {
        let after = after.map_or(String::new(), PageId::to_string);
        let (select, value) = page_query(index);
        let rows: Vec<(String, Versioned<StoredPage>)> = self
            .read(move |connection| {
                let row = |row: &Row<'_>| Ok((row.get(0)?, stored_page(row, 1)?));
                connection
                    .prepare_cached(select)?
                    .query_map(params![after, limit, value], row)?
                    .collect()
            })
            .await?;
        Ok(rows
            .into_iter()
            .filter_map(|(id, stored)| Some((PageId::parse(&id).ok()?, stored)))
            .collect())
    }

    async fn count_pages(&self) -> Result<BTreeMap<Status, u64>, StoreError> {
        let rows: Vec<(String, u64)> = self
            .read(move |connection| {
                let mut select = connection
                    .prepare_cached("SELECT status, count(*) FROM pages GROUP BY status")?;
                select
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect()
            })
            .await?;
        let mut counts = BTreeMap::from(Status::ALL.map(|status| (status, 0)));
        for (name, n) in rows {
            let status = name.parse().unwrap_or(Status::Corrupt);
            *counts.entry(status).or_default() += n;
        }
        Ok(counts)
    }

    async fn correct_page_indexes(&self) -> Result<(), StoreError> {
        // SQLite computes the columns of the indexes, and a step of the schema has filled the table.
        Ok(())
    }

    async fn history(&self, id: &PageId) -> Result<Vec<HistoryEntry>, StoreError> {
        let id = id.to_string();
        let rows: Vec<String> = self
            .read(move |connection| {
                let mut select = connection
                    .prepare_cached("SELECT entry FROM history WHERE page = ?1 ORDER BY n DESC")?;
                select.query_map([id], |row| row.get(0))?.collect()
            })
            .await?;
        rows.iter().map(|entry| from_json(entry)).collect()
    }

    async fn changes_after(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Changes, StoreError> {
        let cursor = cursor.cloned();
        self.read(move |connection| feed::after(connection, cursor.as_ref(), limit))
            .await?
    }

    async fn newest_cursor(&self) -> Result<Cursor, StoreError> {
        self.read(feed::end).await
    }

    async fn forget_erased_changes(&self) -> Result<(), StoreError> {
        // The commit of an erasure deletes them.
        Ok(())
    }

    async fn commit(&self, commits: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError> {
        let now = self.clock.now();
        // Each commit is submitted separately and has its own savepoint. The writer thread commits
        // them together.
        let receivers: Vec<_> = commits
            .iter()
            .cloned()
            .map(|commit| {
                self.database
                    .submit(move |connection| apply_commit(connection, &commit, now))
            })
            .collect();
        let mut outcomes = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            outcomes.push(
                receiver
                    .await
                    .unwrap_or(Err(DatabaseError::Closed))
                    .map_err(unavailable)?,
            );
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
        let claimed = self.database.write(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT subject, at FROM due WHERE queue = ?1 AND at <= ?2 ORDER BY at LIMIT ?3",
            )?;
            let rows: Vec<(String, u64)> = select
                .query_map(params![queue_name.as_str(), signed(now), max], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?
                .collect::<Result<_, _>>()?;
            let mut update =
                connection.prepare_cached("UPDATE due SET at = ?2 WHERE subject = ?1")?;
            for (subject, _) in &rows {
                update.execute(params![subject, signed(now.plus(lease))])?;
            }
            Ok(rows)
        });
        let claimed = claimed.await.map_err(unavailable)?.into_iter();
        let entries = claimed.map(|(text, at)| DueEntry::new(text, HostTime(at)));
        Ok(ClaimedEntries::new(queue_name, entries))
    }

    async fn next_due(
        &self,
        queue_name: QueueName,
        limit: usize,
    ) -> Result<Vec<DueEntry>, StoreError> {
        let rows: Vec<(String, u64)> = self
            .read(move |connection| {
                let mut select = connection.prepare_cached(
                    "SELECT subject, at FROM due WHERE queue = ?1 ORDER BY at, subject LIMIT ?2",
                )?;
                select
                    .query_map(params![queue_name.as_str(), limit], |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })?
                    .collect()
            })
            .await?;
        let entry = |(text, at)| DueEntry::new(text, HostTime(at));
        Ok(rows.into_iter().map(entry).collect())
    }

    async fn pull_back_due_times(&self) -> Result<u64, StoreError> {
        let now = self.clock.now();
        let pulled_back = self.database.write(move |connection| {
            let mut update = connection.prepare_cached(
                "UPDATE due SET at = ?2 WHERE subject IN
                 (SELECT subject FROM due WHERE queue = ?1 AND at > ?3 LIMIT 1000)",
            )?;
            let latest = signed(now.plus(MAX_DUE_AHEAD));
            QueueName::POLLS.iter().try_fold(0, |total, queue_name| {
                let changed = update.execute(params![queue_name.as_str(), signed(now), latest])?;
                Ok(total + changed as u64)
            })
        });
        pulled_back.await.map_err(unavailable)
    }

    async fn now(&self) -> Result<HostTime, StoreError> {
        Ok(self.clock.now())
    }

    async fn load_record(&self, key: &RecordKey) -> Result<Option<Versioned<Json>>, StoreError> {
        let (key, now) = (key.clone(), signed(self.clock.now()));
        let row: Option<(u64, String)> = self
            .read(move |connection| {
                let mut select = connection.prepare_cached(
                    "SELECT version, body FROM records WHERE kind = ?1 AND id = ?2 AND (expires IS NULL OR expires > ?3)",
                )?;
                let row = select.query_row(params![key.kind.name(), key.id, now], |row| Ok((row.get(0)?, row.get(1)?)));
                row.optional()
            })
            .await?;
        Ok(row.map(|(version, body)| Versioned {
            version,
            value: record_body(body),
        }))
    }

    async fn list_records(
        &self,
        kind: RecordKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Versioned<Json>)>, StoreError> {
        let (after, now) = (
            after.unwrap_or_default().to_owned(),
            signed(self.clock.now()),
        );
        let rows: Vec<(String, u64, String)> = self
            .read(move |connection| {
                let mut select = connection.prepare_cached(
                    "SELECT id, version, body FROM records
                     WHERE kind = ?1 AND id > ?2 AND (expires IS NULL OR expires > ?3) ORDER BY id LIMIT ?4",
                )?;
                let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
                select.query_map(params![kind.name(), after, now, limit], row)?.collect()
            })
            .await?;
        let record = |(id, version, body)| {
            let value = record_body(body);
            (RecordKey { kind, id }, Versioned { version, value })
        };
        Ok(rows.into_iter().map(record).collect())
    }

    async fn scrub(&self) -> Result<(), StoreError> {
        // `secure_delete` has overwritten deleted rows in the file, but the log still contains
        // them.
        self.database.truncate_log().await.map_err(unavailable)
    }

    async fn confirm(&self) -> Result<(), StoreError> {
        // Readers of the database see only what is on disk.
        Ok(())
    }

    async fn check(&self) -> Result<Health, StoreError> {
        let key = RecordKey::new(RecordKind::Check, "write");
        let put = RecordWrite::Put {
            key,
            body: Json::from(self.clock.now().0),
            expected: None,
            ttl: None,
        };
        self.commit(&[Commit {
            records: vec![put],
            ..Commit::default()
        }])
        .await?;
        let epoch = |connection: &Connection| {
            connection.query_row("SELECT value FROM meta WHERE key = 'epoch'", [], |row| {
                row.get(0)
            })
        };
        Ok(Health {
            epoch: self.read(epoch).await?,
            errors: Vec::new(),
            warnings: Vec::new(),
        })
    }
}

/// Returns the query of an index of Pages, and its third parameter. The first two are the id before the
/// first row and the number of rows.
fn page_query(index: &PageIndex) -> (&'static str, Option<String>) {
    match index {
        PageIndex::All => (
            "SELECT id, version, attributes FROM pages WHERE id > ?1 AND ?3 IS NULL ORDER BY id LIMIT ?2",
            None,
        ),
        PageIndex::Status(status) => (
            "SELECT id, version, attributes FROM pages WHERE status = ?3 AND id > ?1 ORDER BY id LIMIT ?2",
            Some(status.to_string()),
        ),
        PageIndex::Client(client) => (
            "SELECT id, version, attributes FROM pages WHERE client = ?3 AND id > ?1 ORDER BY id LIMIT ?2",
            Some(client.clone()),
        ),
        PageIndex::Connection(user) => (
            "SELECT id, version, attributes FROM page_connections JOIN pages ON id = page
             WHERE person = ?3 AND page > ?1 ORDER BY page LIMIT ?2",
            Some(user.to_string()),
        ),
        PageIndex::Unpublished => (
            "SELECT id, version, attributes FROM pages WHERE is_unpublished AND id > ?1 AND ?3 IS NULL ORDER BY id LIMIT ?2",
            None,
        ),
    }
}

/// Decodes a Page from its version in column `first` and its attributes in the next column.
fn stored_page(row: &Row<'_>, first: usize) -> rusqlite::Result<Versioned<StoredPage>> {
    let (version, text): (u64, String) = (row.get(first)?, row.get(first + 1)?);
    let decoded = serde_json::from_str::<BTreeMap<String, String>>(&text)
        .map_err(|error| format!("the attributes cannot be read: {error}"))
        .and_then(|attributes| codec::decode(&attributes).map_err(|error| error.to_string()));
    let value = match decoded {
        Ok(page) => StoredPage::Page(Box::new(page)),
        Err(reason) => StoredPage::Corrupt(CorruptPage { raw: text, reason }),
    };
    Ok(Versioned { version, value })
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that map_err needs"
)]
fn unavailable(error: DatabaseError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
