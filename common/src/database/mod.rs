//! Opens the embedded database: one SQLite file with the queue and the store of a deployment that
//! runs in one process.
//!
//! Invariants:
//!
//! - All writes of a process go through one thread. It commits waiting writes in one transaction
//!   and answers only after the transaction is on disk (WAL, `synchronous=FULL`).
//! - An I/O error ends the thread. No write is retried on a file whose state is unknown.
//! - The process `pagesync up` holds an exclusive lock on the file `lock` in the same directory.
//!   Commands open the database without the lock and commit transactions of their own.

mod access;
mod error;
mod schema;
#[cfg(test)]
pub(crate) mod steps;
mod writer;

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use access::Access;
pub use error::DatabaseError;
use error::failed;
use writer::{Responder, Write};

/// How long a statement waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The size in bytes to which SQLite truncates the write-ahead log after it was emptied.
const LOG_SIZE_LIMIT: i64 = 64 << 20;

/// Whether a write is executed although its caller has given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Execution {
    Always,
    IfAwaited,
}

/// A read that waits for the connection.
type Read = Box<dyn FnOnce(&Connection) + Send>;

/// A handle to the open database. Its threads end when the handle is dropped.
#[derive(Debug)]
pub struct Database {
    writes: mpsc::Sender<Write>,
    reads: mpsc::Sender<Read>,
    ended: CancellationToken,
    /// The lock file. Closing it releases the lock.
    _lock: Option<File>,
}

impl Database {
    /// Opens `pagesync.db` in `directory`. [`Access::Exclusive`] creates both if they do not exist;
    /// [`Access::Shared`] fails if the file does not exist.
    pub fn open(directory: &Path, access: Access) -> Result<Self, DatabaseError> {
        let directory = &std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        let path = directory.join("pagesync.db");
        let open_error = |reason: String| DatabaseError::Open {
            path: path.display().to_string(),
            reason,
        };
        if access == Access::Shared && !path.exists() {
            let reason = "the file does not exist: run the command where `pagesync up` runs, or set PAGESYNC_DATA_DIR";
            return Err(open_error(reason.to_owned()));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| open_error(error.to_string()))?;
        let lock = match access {
            Access::Exclusive => Some(lock(directory).map_err(&open_error)?),
            Access::Shared => None,
        };
        if access == Access::Exclusive {
            make_private(&path).map_err(|error| open_error(error.to_string()))?;
        }
        let writer = connect(&path)
            .and_then(|connection| {
                schema::prepare(&connection)?;
                if access == Access::Exclusive {
                    schema::enable_incremental_vacuum(&connection);
                }
                Ok(connection)
            })
            .map_err(&open_error)?;
        let reader = connect(&path).map_err(&open_error)?;
        let (writes, waiting_writes) = mpsc::channel();
        let (reads, waiting_reads) = mpsc::channel::<Read>();
        let ended = CancellationToken::new();
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            // A guard also cancels the token if the thread panics.
            let ended = ended.clone().drop_guard();
            let run = move || {
                let _ended = ended;
                run();
            };
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread
                .spawn(run)
                .map_err(|error| open_error(error.to_string()))
        };
        spawn(
            "database-writer",
            Box::new(move || writer::write_all(&writer, &waiting_writes, access)),
        )?;
        spawn(
            "database-reader",
            Box::new(move || waiting_reads.into_iter().for_each(|read| read(&reader))),
        )?;
        Ok(Self {
            writes,
            reads,
            ended,
            _lock: lock,
        })
    }

    /// Returns a token that is cancelled when a thread of the database has ended: after an I/O
    /// error, after a panic, or because the database was dropped.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Executes `work` in a transaction that it shares with other waiting writes. `Ok` means that
    /// the changes are on disk. If `work` fails, only its own changes are rolled back. The write is
    /// executed even if the future is dropped after its first poll.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        self.submit(work)
            .await
            .unwrap_or(Err(DatabaseError::Closed))
    }

    /// Submits `work` as [`Self::write`] does, and returns a receiver of its result. The write is
    /// executed even if the receiver is dropped.
    pub fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, DatabaseError>> {
        self.submit_as(Execution::Always, work)
    }

    fn submit_as<T: Send + 'static>(
        &self,
        execution: Execution,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, DatabaseError>> {
        let (sender, receiver) = oneshot::channel();
        let write: Write = Box::new(move |transaction| {
            let mut code = None;
            let is_abandoned = execution == Execution::IfAwaited && sender.is_closed();
            let result = match transaction {
                Ok(_) if is_abandoned => Err(DatabaseError::Abandoned),
                Ok(connection) => writer::in_savepoint(connection, work).map_err(|error| {
                    code = error.sqlite_error_code();
                    failed(error)
                }),
                Err(error) => Err(error),
            };
            let respond: Responder = Box::new(move |committed| {
                // If the caller has dropped its receiver, the write is committed all the same.
                let _ = sender.send(committed.and(result));
            });
            (respond, code)
        });
        // If the writer has ended, this drops the sender, and the caller receives `Closed`.
        let _ = self.writes.send(write);
        receiver
    }

    /// Submits `work` as [`Self::submit`] does, but does not execute it if the receiver was dropped
    /// before its turn. `work` is dropped in any case.
    pub fn submit_if_awaited<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, DatabaseError>> {
        self.submit_as(Execution::IfAwaited, work)
    }

    /// Executes `query` on the last committed state.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (sender, receiver) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            let _ = sender.send(query(connection).map_err(failed));
        });
        let _ = self.reads.send(read);
        receiver.await.unwrap_or(Err(DatabaseError::Closed))
    }
}

impl Database {
    /// Moves all committed changes from the write-ahead log into the database file and empties the
    /// log. Fails if other processes use the log all the time, for half a minute.
    pub async fn truncate_log(&self) -> Result<(), DatabaseError> {
        const MAX_ATTEMPTS: u32 = 6;
        for _ in 0..MAX_ATTEMPTS {
            // The checkpoint waits for readers and writers, up to `BUSY_TIMEOUT`.
            let checkpoint = |connection: &Connection| {
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            };
            let busy: i64 = self.read(checkpoint).await?;
            if busy == 0 {
                return Ok(());
            }
        }
        let reason = "its log could not be emptied, because another process uses it";
        Err(DatabaseError::Failed(reason.to_owned()))
    }
}

/// Locks the file `lock` in `directory` until the returned file is closed.
fn lock(directory: &Path) -> Result<File, String> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    file.try_lock()
        .map_err(|_| "another pagesync process uses this directory".to_owned())?;
    Ok(file)
}

/// Creates the database file if it does not exist, and lets only its owner read and write it and the
/// files beside it. SQLite gives files that it creates later the same permissions.
fn make_private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    for suffix in ["-wal", "-shm"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        match std::fs::set_permissions(&beside, Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Opens a connection with the settings that durability and erasure need.
fn connect(path: &Path) -> Result<Connection, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        #[cfg_attr(
            not(test),
            expect(unused_mut, reason = "only tests observe statements")
        )]
        let mut connection = Connection::open_with_flags(path, flags)?;
        #[cfg(test)]
        steps::observe(&mut connection)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        // A new file needs this before its first page. On an existing file it would be a write.
        if pages == 0 {
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "secure_delete", "ON")?;
        connection.pragma_update(None, "journal_size_limit", LOG_SIZE_LIMIT)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_meta_rows(connection: &Connection) -> rusqlite::Result<i64> {
        connection.query_row("SELECT count(*) FROM meta", [], |row| row.get(0))
    }

    #[tokio::test]
    async fn a_write_that_fails_is_rolled_back_and_the_others_are_committed() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(directory.path(), Access::Exclusive).unwrap();
        let good = database.submit(|c| c.execute("INSERT INTO meta VALUES ('a', '1')", []));
        let bad = database.submit(|c| {
            c.execute("INSERT INTO meta VALUES ('b', '1')", [])?;
            c.execute("INSERT INTO meta VALUES ('b', '2')", [])
        });
        assert!(good.await.unwrap().is_ok());
        assert!(bad.await.unwrap().is_err());
        assert_eq!(database.read(count_meta_rows).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn one_process_has_exclusive_access_and_commands_share_the_database() {
        let directory = tempfile::tempdir().unwrap();
        let exclusive = Database::open(directory.path(), Access::Exclusive).unwrap();
        let second = Database::open(directory.path(), Access::Exclusive).unwrap_err();
        assert!(second.to_string().contains("another pagesync process"));
        let shared = Database::open(directory.path(), Access::Shared).unwrap();
        shared
            .write(|c| c.execute("INSERT INTO meta VALUES ('c', '1')", []))
            .await
            .unwrap();
        assert_eq!(exclusive.read(count_meta_rows).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn only_the_owner_can_read_the_files_of_the_database() {
        let directory = tempfile::tempdir().unwrap();
        // An earlier version created the file with the permissions of the process.
        let file = directory.path().join("pagesync.db");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let database = Database::open(directory.path(), Access::Exclusive).unwrap();
        database.read(count_meta_rows).await.unwrap();
        for name in ["pagesync.db", "pagesync.db-wal", "pagesync.db-shm"] {
            let metadata = std::fs::metadata(directory.path().join(name)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[tokio::test]
    async fn a_database_with_another_schema_is_refused() {
        for version in [1, 99] {
            let directory = tempfile::tempdir().unwrap();
            let database = Database::open(directory.path(), Access::Exclusive).unwrap();
            database
                .write(move |c| c.pragma_update(None, "user_version", version))
                .await
                .unwrap();
            drop(database);
            let error = Database::open(directory.path(), Access::Shared).unwrap_err();
            let named = format!("version {version}");
            assert!(error.to_string().contains(&named), "{error}");
        }
    }
}
