//! The writer thread of the embedded database.
//!
//! Invariants: all waiting writes share one transaction, and each of them has a savepoint of its
//! own. After an I/O error the thread ends, because the state of the file is unknown. Freed pages
//! are removed from the file only while no write waits.

use std::sync::mpsc;

use rusqlite::{Connection, ErrorCode};

use super::access::Access;
use super::error::{DatabaseError, failed};

/// The largest number of writes in one transaction.
const MAX_GROUP_WRITES: usize = 512;
/// How many free pages the file keeps for later writes: 16 MiB of pages with 4 KiB.
const KEPT_FREE_PAGES: i64 = 4096;
/// How many free pages are removed at a time, so that a write waits only briefly: 4 MiB.
const VACUUM_PAGES: i64 = 1024;

/// Executes `work` in a savepoint, and rolls back its changes if it fails.
pub(super) fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.prepare_cached("SAVEPOINT work")?.execute([])?;
    match work(connection) {
        Ok(output) => {
            connection.prepare_cached("RELEASE work")?.execute([])?;
            Ok(output)
        }
        Err(error) => {
            // If SQLite has already rolled back the whole transaction, for example because the disk
            // is full, this statement fails too. `write_group` detects that the transaction has
            // ended.
            let _ = connection.execute_batch("ROLLBACK TO work; RELEASE work");
            Err(error)
        }
    }
}

/// A function that takes the result of the commit and sends the result of a write to its caller.
pub(super) type Responder = Box<dyn FnOnce(Result<(), DatabaseError>) + Send>;
/// A write that waits for its transaction. It takes the connection with the open transaction, or
/// the reason why there is none, and returns the code of SQLite if it failed.
pub(super) type Write =
    Box<dyn FnOnce(Result<&Connection, DatabaseError>) -> (Responder, Option<ErrorCode>) + Send>;

/// Executes writes in groups until the [`Database`] is dropped or an I/O error occurs.
///
/// With [`Access::Exclusive`] it also removes free pages from the file.
pub(super) fn write_all(connection: &Connection, waiting: &mpsc::Receiver<Write>, access: Access) {
    let mut may_have_free_pages = access == Access::Exclusive;
    loop {
        let first = match waiting.try_recv() {
            Ok(write) => write,
            Err(mpsc::TryRecvError::Disconnected) => return,
            Err(mpsc::TryRecvError::Empty) if may_have_free_pages => {
                match remove_free_pages(connection) {
                    Ok(may_have_more) => may_have_free_pages = may_have_more,
                    Err(error) => {
                        tracing::warn!(error = %error, "free pages could not be removed from the database file");
                        if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
                            return;
                        }
                        may_have_free_pages = false;
                    }
                }
                continue;
            }
            Err(mpsc::TryRecvError::Empty) => match waiting.recv() {
                Ok(write) => write,
                Err(mpsc::RecvError) => return,
            },
        };
        may_have_free_pages = access == Access::Exclusive;
        let rest = std::iter::from_fn(|| waiting.try_recv().ok());
        let group: Vec<Write> = std::iter::once(first)
            .chain(rest)
            .take(MAX_GROUP_WRITES)
            .collect();
        let (committed, responders, disk_failed) = write_group(connection, group);
        if let Err(error) = &committed {
            tracing::error!(error = %error, "a commit of the embedded database failed");
        }
        for respond in responders {
            respond(committed.clone());
        }
        if disk_failed {
            return;
        }
    }
}

/// Removes some free pages from the file if there are many. Returns whether there may be more.
fn remove_free_pages(connection: &Connection) -> rusqlite::Result<bool> {
    let count_free = || -> rusqlite::Result<i64> {
        connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))
    };
    let free = count_free()?;
    if free <= KEPT_FREE_PAGES {
        return Ok(false);
    }
    let pages = VACUUM_PAGES.min(free - KEPT_FREE_PAGES);
    let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    // SQLite removes one page for each row that is read.
    let mut rows = vacuum.query([])?;
    while rows.next()?.is_some() {}
    drop(rows);
    let left = count_free()?;
    // A file that could not be converted does not shrink.
    Ok(left < free && left > KEPT_FREE_PAGES)
}

/// Executes a group of writes in one transaction. Returns the result of the commit, a responder for
/// each write, and whether an I/O error occurred, after which the state of the file is unknown.
fn write_group(
    connection: &Connection,
    group: Vec<Write>,
) -> (Result<(), DatabaseError>, Vec<Responder>, bool) {
    let is_disk_error = |code: Option<ErrorCode>| code == Some(ErrorCode::SystemIoFailure);
    let (mut responders, mut disk_failed) = (Vec::with_capacity(group.len()), false);
    let mut transaction = connection
        .execute_batch("BEGIN IMMEDIATE")
        .map_err(|error| {
            disk_failed |= is_disk_error(error.sqlite_error_code());
            failed(error)
        });
    for write in group {
        let (respond, code) = write(transaction.clone().map(|()| connection));
        responders.push(respond);
        disk_failed |= is_disk_error(code);
        // SQLite rolls back the whole transaction if the disk is full or fails. The remaining
        // writes must then fail, because each of their statements would commit at once.
        if transaction.is_ok() && connection.is_autocommit() {
            let reason = "the transaction was rolled back after a disk error";
            transaction = Err(DatabaseError::Failed(reason.to_owned()));
        }
    }
    let committed = transaction.and_then(|()| {
        connection.execute_batch("COMMIT").map_err(|error| {
            disk_failed |= is_disk_error(error.sqlite_error_code());
            failed(error)
        })
    });
    if committed.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    (committed, responders, disk_failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_pages_are_removed_many_at_a_time_and_some_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let connection = Connection::open(directory.path().join("file")).unwrap();
        let fill = "PRAGMA auto_vacuum = INCREMENTAL; CREATE TABLE t (b BLOB);
            INSERT INTO t VALUES (zeroblob(40000000)); DELETE FROM t;";
        connection.execute_batch(fill).unwrap();
        let free = || -> i64 {
            connection
                .query_row("PRAGMA freelist_count", [], |row| row.get(0))
                .unwrap()
        };
        let before = free();
        assert!(before > KEPT_FREE_PAGES + 2 * VACUUM_PAGES, "{before}");
        assert!(remove_free_pages(&connection).unwrap());
        assert_eq!(free(), before - VACUUM_PAGES);
        while remove_free_pages(&connection).unwrap() {}
        assert_eq!(free(), KEPT_FREE_PAGES);
    }
}
