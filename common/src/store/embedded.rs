//! The store in the embedded database. A commit is a savepoint in the writer's transaction; what it
//! means is the same as `commit.lua` on Redis, statement by statement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::id::{PageId, Subject};
use model::job::Claim;
use model::page::Status;
use model::queue_name::QueueName;
use model::time::HostTime;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::Value as Json;

use super::codec::{from_json, subject, to_json};
use super::{
    Changes, Commit, CommitOutcome, CorruptPage, Cursor, DueWrite, FeedEntry, Health, HistoryEntry,
    MAX_FEED, MAX_HISTORY, PageWrite, RecordKey, RecordKind, RecordWrite, Store, StoreError,
    StoredPage, Versioned, codec,
};
use crate::clock::Clock;
use crate::database::{Database, DatabaseError};

/// The store of a one-process deployment.
#[derive(Debug)]
pub struct EmbeddedStore {
    database: Arc<Database>,
    clock: Clock,
}

impl EmbeddedStore {
    /// The store in this database; `clock` decides what has expired.
    pub fn new(database: Arc<Database>, clock: Clock) -> Self {
        Self { database, clock }
    }

    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.database.read(question).await.map_err(unavailable)
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
                        .query_row([id.as_str()], |row| stored(row, 0))
                        .optional()?
                        .unwrap_or_else(unknown))
                })
                .collect()
        })
        .await
    }

    async fn list_pages(
        &self,
        after: Option<&PageId>,
        limit: usize,
    ) -> Result<Vec<(PageId, Versioned<StoredPage>)>, StoreError> {
        let after = after.map_or(String::new(), PageId::to_string);
        let rows: Vec<(String, Versioned<StoredPage>)> = self
            .read(move |connection| {
                let mut select = connection.prepare_cached(
                    "SELECT id, version, attributes FROM pages WHERE id > ?1 ORDER BY id LIMIT ?2",
                )?;
                select
                    .query_map(params![after, limit], |row| {
                        Ok((row.get(0)?, stored(row, 1)?))
                    })?
                    .collect()
            })
            .await?;
        Ok(rows
            .into_iter()
            .filter_map(|(id, stored)| Some((PageId::parse(&id).ok()?, stored)))
            .collect())
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
        let (epoch, last, kept) = self
            .read(move |connection| {
                let epoch: String = connection.query_row(
                    "SELECT value FROM meta WHERE key = 'epoch'",
                    [],
                    |row| row.get(0),
                )?;
                let last: Option<u64> = connection
                    .query_row(
                        "SELECT seq FROM sqlite_sequence WHERE name = 'feed'",
                        [],
                        |row| row.get(0),
                    )
                    .optional()?;
                let from = cursor.as_ref().map_or(0, |cursor| cursor.position);
                let mut select = connection
                    .prepare_cached("SELECT n, entry FROM feed WHERE n > ?1 ORDER BY n LIMIT ?2")?;
                let kept: Vec<(u64, String)> = select
                    .query_map(params![from, limit], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<Result<_, _>>()?;
                let first: Option<u64> =
                    connection.query_row("SELECT min(n) FROM feed", [], |row| row.get(0))?;
                let gone = cursor.is_some_and(|cursor| {
                    let missing = first.map_or(cursor.position < last.unwrap_or(0), |first| {
                        cursor.position + 1 < first
                    });
                    cursor.epoch != epoch || missing || cursor.position > last.unwrap_or(0)
                });
                Ok((epoch, last.unwrap_or(0), (!gone).then_some(kept)))
            })
            .await?;
        let Some(kept) = kept else {
            return Ok(Changes::Trimmed(Cursor {
                epoch,
                position: last,
            }));
        };
        let entry = |(n, entry): (u64, String)| {
            let entry: FeedEntry = from_json(&entry)?;
            Ok((
                Cursor {
                    epoch: epoch.clone(),
                    position: n,
                },
                entry,
            ))
        };
        Ok(Changes::Entries(
            kept.into_iter()
                .map(entry)
                .collect::<Result<_, StoreError>>()?,
        ))
    }

    async fn commit(&self, commits: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError> {
        let now = self.clock.now();
        // Submitted one by one so that each has its own savepoint; the writer still commits them
        // together.
        let answers: Vec<_> = commits
            .iter()
            .cloned()
            .map(|commit| {
                self.database
                    .submit(move |connection| apply(connection, &commit, now))
            })
            .collect();
        let mut outcomes = Vec::with_capacity(answers.len());
        for answer in answers {
            outcomes.push(
                answer
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
    ) -> Result<Vec<Claim>, StoreError> {
        let taken = self.database.write(move |connection| {
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
        let taken = taken.await.map_err(unavailable)?;
        let claim = |(text, at): (String, u64)| {
            Some(Claim {
                subject: subject(&text)?,
                queue: queue_name,
                due_at: HostTime(at),
            })
        };
        Ok(taken.into_iter().filter_map(claim).collect())
    }

    async fn next_due(
        &self,
        queue_name: QueueName,
        limit: usize,
    ) -> Result<Vec<(Subject, HostTime)>, StoreError> {
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
        let entry = |(text, at): (String, u64)| Some((subject(&text)?, HostTime(at)));
        Ok(rows.into_iter().filter_map(entry).collect())
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
        row.map(|(version, body)| {
            Ok(Versioned {
                version,
                value: from_json(&body)?,
            })
        })
        .transpose()
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
        rows.into_iter()
            .map(|(id, version, body)| {
                Ok((
                    RecordKey { kind, id },
                    Versioned {
                        version,
                        value: from_json(&body)?,
                    },
                ))
            })
            .collect()
    }

    async fn scrub(&self) -> Result<(), StoreError> {
        // Deleted rows were overwritten (`secure_delete`); the log still has them.
        self.database.truncate_log().await.map_err(unavailable)
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

/// One commit inside its savepoint. `Stale` has written nothing.
fn apply(
    connection: &Connection,
    commit: &Commit,
    now: HostTime,
) -> rusqlite::Result<CommitOutcome> {
    if !expectations_hold(connection, commit, now)? {
        return Ok(CommitOutcome::Stale);
    }
    if let Some(write) = &commit.page {
        write_page(connection, write)?;
    }
    for write in &commit.records {
        write_record(connection, write, now)?;
    }
    for DueWrite { subject, due } in &commit.due {
        match due {
            Some((queue_name, at)) => connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO due (subject, queue, at) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![
                    subject.to_string(),
                    queue_name.as_str(),
                    signed(*at)
                ])?,
            None => connection
                .prepare_cached("DELETE FROM due WHERE subject = ?1")?
                .execute([subject.to_string()])?,
        };
    }
    Ok(CommitOutcome::Applied)
}

fn expectations_hold(
    connection: &Connection,
    commit: &Commit,
    now: HostTime,
) -> rusqlite::Result<bool> {
    if let Some(PageWrite { id, expected, .. }) = &commit.page {
        let mut select = connection.prepare_cached("SELECT version FROM pages WHERE id = ?1")?;
        let version: Option<u64> = select
            .query_row([id.as_str()], |row| row.get(0))
            .optional()?;
        if version.unwrap_or(0) != *expected {
            return Ok(false);
        }
    }
    let expected_records = commit.records.iter().filter_map(|write| match write {
        RecordWrite::Put { key, expected, .. } | RecordWrite::Delete { key, expected } => {
            Some((key, (*expected)?))
        }
        RecordWrite::Add { .. } => None,
    });
    for (key, expected) in commit
        .guards
        .iter()
        .map(|(key, version)| (key, *version))
        .chain(expected_records)
    {
        if record_version(connection, key, now)? != expected {
            return Ok(false);
        }
    }
    Ok(true)
}

fn record_version(
    connection: &Connection,
    key: &RecordKey,
    now: HostTime,
) -> rusqlite::Result<u64> {
    let mut select = connection.prepare_cached(
        "SELECT version FROM records WHERE kind = ?1 AND id = ?2 AND (expires IS NULL OR expires > ?3)",
    )?;
    let version = select
        .query_row(params![key.kind.name(), key.id, signed(now)], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(version.unwrap_or(0))
}

fn write_page(connection: &Connection, write: &PageWrite) -> rusqlite::Result<()> {
    let version = write.expected + 1;
    let id = write.id.as_str();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO pages (id, version, attributes) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![id, version, to_json(&codec::encode(&write.page))])?;
    if write.page.status == Status::Erased {
        connection
            .prepare_cached("DELETE FROM history WHERE page = ?1")?
            .execute([id])?;
    }
    if write.changes.is_empty() {
        return Ok(());
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO history (page, n, entry) VALUES (?1, (SELECT coalesce(max(n), 0) + 1 FROM history WHERE page = ?1), ?2)",
    )?;
    for change in &write.changes {
        insert.execute(params![
            id,
            to_json(&HistoryEntry::new(change, write.received_at, version))
        ])?;
    }
    connection
        .prepare_cached("DELETE FROM history WHERE page = ?1 AND n <= (SELECT max(n) FROM history WHERE page = ?1) - ?2")?
        .execute(params![id, MAX_HISTORY])?;
    let Some(entry) = FeedEntry::new(write) else {
        return Ok(());
    };
    connection
        .prepare_cached("INSERT INTO feed (entry) VALUES (?1)")?
        .execute([to_json(&entry)])?;
    connection
        .prepare_cached("DELETE FROM feed WHERE n <= ?1 - ?2")?
        .execute(params![connection.last_insert_rowid(), MAX_FEED])?;
    Ok(())
}

fn write_record(
    connection: &Connection,
    write: &RecordWrite,
    now: HostTime,
) -> rusqlite::Result<()> {
    // What has expired is as good as gone; a few rows go for real with every write.
    connection
        .prepare_cached("DELETE FROM records WHERE (kind, id) IN (SELECT kind, id FROM records WHERE expires <= ?1 LIMIT 8)")?
        .execute([signed(now)])?;
    match write {
        RecordWrite::Put { key, body, ttl, .. } => {
            let version = record_version(connection, key, now)? + 1;
            let expires = ttl.map(|ttl| signed(now.plus(ttl)));
            connection
                .prepare_cached("INSERT OR REPLACE INTO records (kind, id, version, body, expires) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![key.kind.name(), key.id, version, body.to_string(), expires])?;
        }
        RecordWrite::Delete { key, .. } => {
            connection
                .prepare_cached("DELETE FROM records WHERE kind = ?1 AND id = ?2")?
                .execute([key.kind.name(), &key.id])?;
        }
        RecordWrite::Add { key, n } => {
            connection
                .prepare_cached(
                    "DELETE FROM records WHERE kind = ?1 AND id = ?2 AND expires <= ?3",
                )?
                .execute(params![key.kind.name(), key.id, signed(now)])?;
            connection
                .prepare_cached(
                    "INSERT INTO records (kind, id, version, body) VALUES (?1, ?2, 1, ?3) ON CONFLICT (kind, id)
                     DO UPDATE SET version = version + 1, body = CAST(CAST(body AS INTEGER) + ?3 AS TEXT)",
                )?
                .execute(params![key.kind.name(), key.id, n])?;
        }
    }
    Ok(())
}

/// Decodes version and attributes at columns `first` and `first + 1`.
fn stored(row: &Row<'_>, first: usize) -> rusqlite::Result<Versioned<StoredPage>> {
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

/// SQLite counts to 2^63; no clock does.
fn signed(at: HostTime) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn unavailable(error: DatabaseError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
