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

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The largest number of writes in one transaction.
const MAX_GROUP_WRITES: usize = 512;
/// How long a statement waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The version of [`SCHEMA`], stored as `PRAGMA user_version`.
const SCHEMA_VERSION: i64 = 2;

/// The statements that create the schema.
const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', lower(hex(randomblob(8))));

CREATE TABLE queues (queue TEXT PRIMARY KEY, bytes INTEGER NOT NULL, max_bytes INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO queues VALUES ('webhooks', 0, 2147483648), ('polls_now', 0, 268435456), ('polls_daily', 0, 268435456);
CREATE TABLE messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, attempt INTEGER NOT NULL, lease INTEGER, body BLOB NOT NULL
);
CREATE INDEX messages_waiting ON messages (queue, id) WHERE lease IS NULL;
CREATE TRIGGER message_in AFTER INSERT ON messages BEGIN
  UPDATE queues SET bytes = bytes + length(new.body) WHERE queue = new.queue;
END;
CREATE TRIGGER message_out AFTER DELETE ON messages BEGIN
  UPDATE queues SET bytes = bytes - length(old.body) WHERE queue = old.queue;
END;

CREATE TABLE pages (id TEXT PRIMARY KEY, version INTEGER NOT NULL, attributes TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE history (page TEXT NOT NULL, n INTEGER NOT NULL, entry TEXT NOT NULL, PRIMARY KEY (page, n)) WITHOUT ROWID;
CREATE TABLE feed (n INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT NOT NULL);
CREATE TABLE records (
  kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL, expires INTEGER,
  PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX records_expiring ON records (expires) WHERE expires IS NOT NULL;
CREATE TABLE due (subject TEXT PRIMARY KEY, queue TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX due_next ON due (queue, at);
";

/// The reason why an operation of the database failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// The file cannot be opened, is in use, or has the schema of a newer version.
    #[error("cannot open the database {path}: {reason}")]
    Open {
        /// The path of the file.
        path: String,
        /// The problem, and its remedy if there is one.
        reason: String,
    },
    /// A statement or a commit failed.
    #[error("the database failed: {0}")]
    Failed(String),
    /// The thread that executes the operation has ended, usually after an I/O error of the disk.
    #[error("the database is closed after a disk error: repair the disk, then restart pagesync")]
    Closed,
}

/// The way in which a process uses the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The use by `pagesync up`. At most one process can open the database this way.
    Exclusive,
    /// The use by a command, which can run at the same time as `pagesync up`.
    Shared,
}

/// A function that takes the result of the commit and sends the result of a write to its caller.
type Responder = Box<dyn FnOnce(Result<(), DatabaseError>) + Send>;
/// A write that waits for its transaction. It takes the connection with the open transaction, or
/// the reason why there is none, and returns the code of SQLite if it failed.
type Write =
    Box<dyn FnOnce(Result<&Connection, DatabaseError>) -> (Responder, Option<ErrorCode>) + Send>;
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
        let writer = connect(&path)
            .and_then(|connection| prepare(&connection).map(|()| connection))
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
            Box::new(move || write_all(&writer, &waiting_writes)),
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
        let (sender, receiver) = oneshot::channel();
        let write: Write = Box::new(move |transaction| {
            let mut code = None;
            let result = match transaction {
                Ok(connection) => in_savepoint(connection, work).map_err(|error| {
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

#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that map_err needs"
)]
fn failed(error: rusqlite::Error) -> DatabaseError {
    DatabaseError::Failed(error.to_string())
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

/// Opens a connection with the settings that durability and erasure need.
fn connect(path: &Path) -> Result<Connection, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "secure_delete", "ON")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| error.to_string())
}

/// Creates the schema in a new database, and fails if the schema is of a newer version.
fn prepare(connection: &Connection) -> Result<(), String> {
    let run = || {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version == 0 {
            connection.execute_batch(SCHEMA)?;
            connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        connection.execute_batch("COMMIT")?;
        Ok(version)
    };
    let version = run().map_err(|error: rusqlite::Error| error.to_string())?;
    if version != 0 && version < SCHEMA_VERSION {
        return Err(format!(
            "its schema is version {version}, which pagesync 0.1 wrote, and this build supports version {SCHEMA_VERSION}: start with an empty data directory"
        ));
    }
    if version > SCHEMA_VERSION {
        return Err(format!(
            "its schema is version {version} and this build supports version {SCHEMA_VERSION}: use a newer pagesync"
        ));
    }
    Ok(())
}

/// Executes `work` in a savepoint, and rolls back its changes if it fails.
fn in_savepoint<T>(
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

/// Executes writes in groups until the [`Database`] is dropped or an I/O error occurs.
fn write_all(connection: &Connection, waiting: &mpsc::Receiver<Write>) {
    while let Ok(first) = waiting.recv() {
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

/// Executes a group of writes in one transaction. Returns the result of the commit, a responder for
/// each write, and whether an I/O error occurred, after which the state of the file is unknown.
fn write_group(
    connection: &Connection,
    group: Vec<Write>,
) -> (Result<(), DatabaseError>, Vec<Responder>, bool) {
    let is_disk_error = |code: Option<ErrorCode>| code == Some(ErrorCode::SystemIoFailure);
    let (mut responders, mut disk_failed) = (Vec::with_capacity(group.len()), false);
    let mut transaction = connection.execute_batch("BEGIN IMMEDIATE").map_err(failed);
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
