//! Executes commits on the embedded database.
//!
//! Invariant: each commit has the same effect as `commit.lua` has on Redis.

use model::page::Status;
use model::polling::MAX_DUE_AHEAD;
use model::time::HostTime;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::store::codec::to_json;
use crate::store::{
    Commit, CommitOutcome, DueWrite, FeedEntry, HistoryEntry, MAX_FEED, MAX_HISTORY, PageWrite,
    RecordKey, RecordWrite, codec,
};

/// Executes one commit in its savepoint.
pub(super) fn apply_commit(
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
            // A wrong clock must not postpone a poll for ever.
            Some((queue_name, at)) => connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO due (subject, queue, at) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![
                    subject.to_string(),
                    queue_name.as_str(),
                    signed((*at).min(now.plus(MAX_DUE_AHEAD)))
                ])?,
            None => connection
                .prepare_cached("DELETE FROM due WHERE subject = ?1")?
                .execute([subject.to_string()])?,
        };
    }
    Ok(CommitOutcome::Applied)
}

/// Returns whether the Page and all records of a commit have the expected versions.
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
        .map(|guard| (&guard.key, guard.version))
        .chain(expected_records)
    {
        if record_version(connection, key, now)? != expected {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the version of a record, or 0 if it does not exist or has expired.
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

/// Stores a Page and adds its changes to the history and the change feed.
fn write_page(connection: &Connection, write: &PageWrite) -> rusqlite::Result<()> {
    let version = write.expected + 1;
    let id = write.id.as_str();
    let stored: Option<(String, Option<String>, Option<String>)> = connection
        .prepare_cached("SELECT status, connections, client FROM pages WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let attributes = codec::encode(&write.page);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO pages (id, version, attributes) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![id, version, to_json(&attributes)])?;
    let before = stored.as_ref().and_then(|(_, people, _)| people.as_ref());
    if before != attributes.get(codec::CONNECTIONS) {
        write_connections(connection, write)?;
    }
    if write.page.status == Status::Erased {
        connection
            .prepare_cached("DELETE FROM history WHERE page = ?1")?
            .execute([id])?;
        connection
            .prepare_cached(
                "UPDATE feed SET changes = NULL WHERE page = ?1 AND changes IS NOT NULL",
            )?
            .execute([id])?;
    }
    if !write.changes.is_empty() {
        write_history(connection, write)?;
    }
    // A new Page without a value is no change.
    let status = write.page.status.to_string();
    let has_new_status = stored
        .as_ref()
        .is_some_and(|(before, ..)| *before != status);
    let former_client = stored
        .filter(|(_, _, client)| *client != write.page.client)
        .map(|(_, _, client)| client.unwrap_or_default());
    if write.changes.is_empty() && !has_new_status && former_client.is_none() {
        return Ok(());
    }
    let entry = FeedEntry::new(write);
    let changes = (!write.changes.is_empty()).then(|| to_json(&entry.changes));
    connection
        .prepare_cached("INSERT INTO feed (entry, changes, former_client) VALUES (?1, ?2, ?3)")?
        .execute(params![to_json(&entry), changes, former_client])?;
    connection
        .prepare_cached("DELETE FROM feed WHERE n <= ?1 - ?2")?
        .execute(params![connection.last_insert_rowid(), MAX_FEED])?;
    Ok(())
}

/// Replaces the people in the index of the Pages by connection.
fn write_connections(connection: &Connection, write: &PageWrite) -> rusqlite::Result<()> {
    let id = write.id.as_str();
    connection
        .prepare_cached("DELETE FROM page_connections WHERE page = ?1")?
        .execute([id])?;
    let mut insert = connection
        .prepare_cached("INSERT OR IGNORE INTO page_connections (person, page) VALUES (?1, ?2)")?;
    if write.page.status != Status::Erased {
        for person in &write.page.connections {
            insert.execute([person.as_str(), id])?;
        }
    }
    Ok(())
}

/// Adds the changes of a Page to its history.
fn write_history(connection: &Connection, write: &PageWrite) -> rusqlite::Result<()> {
    let (id, version) = (write.id.as_str(), write.expected + 1);
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
    Ok(())
}

/// Executes the write of a record, and deletes a few expired records.
fn write_record(
    connection: &Connection,
    write: &RecordWrite,
    now: HostTime,
) -> rusqlite::Result<()> {
    // Reads ignore expired records. Each write deletes up to eight of them, so that they do not
    // accumulate.
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
                     DO UPDATE SET version = version + 1, body = CAST(CAST(body AS INTEGER) + ?3 AS TEXT)
                     WHERE body = CAST(CAST(body AS INTEGER) AS TEXT)",
                )?
                .execute(params![key.kind.name(), key.id, n])?;
        }
    }
    Ok(())
}

/// Returns an instant as a signed integer, as SQLite stores it. An instant that is too large
/// becomes the largest integer.
pub(super) fn signed(at: HostTime) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}
