//! Reads the change feed of the embedded database.
//!
//! Invariant: a reader receives the entries after its cursor without a gap, or learns that it must load
//! all Pages.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::store::{Changes, Cursor, FeedEntry, StoreError};

/// Returns the cursor after the newest entry.
pub(super) fn end(connection: &Connection) -> rusqlite::Result<Cursor> {
    let epoch = "SELECT value FROM meta WHERE key = 'epoch'";
    let position = "SELECT seq FROM sqlite_sequence WHERE name = 'feed'";
    let position = connection.query_row(position, [], |row| row.get(0));
    Ok(Cursor {
        epoch: connection.query_row(epoch, [], |row| row.get(0))?,
        position: position.optional()?.unwrap_or(0),
    })
}

/// Returns up to `limit` entries after a cursor, as [`crate::store::Store::changes_after`] does.
pub(super) fn after(
    connection: &Connection,
    cursor: Option<&Cursor>,
    limit: usize,
) -> rusqlite::Result<Result<Changes, StoreError>> {
    let end = end(connection)?;
    let first: Option<u64> =
        connection.query_row("SELECT min(n) FROM feed", [], |row| row.get(0))?;
    let is_trimmed = cursor.is_some_and(|cursor| {
        let first = first.unwrap_or_else(|| end.position.saturating_add(1));
        let is_missing = cursor.position.saturating_add(1) < first;
        cursor.epoch != end.epoch || cursor.position > end.position || is_missing
    });
    if is_trimmed {
        return Ok(Ok(Changes::Trimmed(end)));
    }
    let from = cursor.map_or(0, |cursor| cursor.position);
    let rows: Vec<(u64, String, Option<String>, Option<String>)> = connection
        .prepare_cached(
            "SELECT n, entry, changes, former_client FROM feed WHERE n > ?1 ORDER BY n LIMIT ?2",
        )?
        .query_map(params![from, limit], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<Result<_, _>>()?;
    let decode = |(position, entry, changes, former): (u64, String, Option<String>, _)| {
        let entry = FeedEntry::decode(&entry, changes.as_deref(), former)?;
        let epoch = end.epoch.clone();
        Ok((Cursor { epoch, position }, entry))
    };
    let entries: Result<Vec<_>, StoreError> = rows.into_iter().map(decode).collect();
    Ok(entries.map(Changes::Entries))
}
