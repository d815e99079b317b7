//! The embedded database: one SQLite file that holds the queue and the store of a one-process
//! deployment.
//!
//! Invariants: all writes of this process go through one thread, which commits everything that
//! waits in one transaction and answers only after the commit is on disk (WAL,
//! `synchronous=FULL`). A commit that fails on the disk ends the thread: nothing is retried on a
//! file whose state is unknown. The process that owns the file holds a lock beside it; commands are
//! guests, they write in transactions of their own.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// At most this many pieces of work share a transaction.
const MAX_GROUP_WRITES: usize = 512;
/// How long a writer waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// `PRAGMA user_version` of the schema below.
const SCHEMA_VERSION: i64 = 1;

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

/// Why the database could not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// The file cannot be opened or is not ours.
    #[error("cannot open the database {path}: {reason}")]
    Open {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A statement or a commit failed.
    #[error("the database answers: {0}")]
    Failed(String),
    /// The writer has ended after an error of the disk.
    #[error("the database is closed after an error of its disk; restart when the disk is well")]
    Closed,
}

/// Who opens the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The running process. There is at most one.
    Exclusive,
    /// An operator's command beside it.
    Shared,
}

type Finish = Box<dyn FnOnce(Result<(), DatabaseError>) + Send>;
/// Runs in the open transaction, or learns why there is none.
/// Says with which code of SQLite it failed, if it did.
type Write =
    Box<dyn FnOnce(Result<&Connection, DatabaseError>) -> (Finish, Option<ErrorCode>) + Send>;
type Read = Box<dyn FnOnce(&Connection) + Send>;

/// A handle to the open file.
#[derive(Debug)]
pub struct Database {
    writes: mpsc::Sender<Write>,
    reads: mpsc::Sender<Read>,
    ended: CancellationToken,
    _lock: Option<File>,
}

impl Database {
    /// Opens `pagesync.db` in `directory`, making both if they are not there.
    pub fn open(directory: &Path, access: Access) -> Result<Self, DatabaseError> {
        let directory = &std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        let path = directory.join("pagesync.db");
        let refuse = |reason: String| DatabaseError::Open {
            path: path.display().to_string(),
            reason,
        };
        if access == Access::Shared && !path.exists() {
            let remedy =
                "there is none: run this where `pagesync up` runs, or set PAGESYNC_DATA_DIR";
            return Err(refuse(remedy.to_owned()));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| refuse(error.to_string()))?;
        let lock = match access {
            Access::Exclusive => Some(lock(directory).map_err(&refuse)?),
            Access::Shared => None,
        };
        let writer = connect(&path)
            .and_then(|connection| prepare(&connection).map(|()| connection))
            .map_err(&refuse)?;
        let reader = connect(&path).map_err(&refuse)?;
        let (writes, work) = mpsc::channel();
        let (reads, questions) = mpsc::channel::<Read>();
        let ended = CancellationToken::new();
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            // Cancelled however the thread ends, by a panic too.
            let ended = ended.clone().drop_guard();
            let run = move || {
                let _ended = ended;
                run();
            };
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(run).map_err(|error| refuse(error.to_string()))
        };
        spawn(
            "database-writer",
            Box::new(move || write_all(&writer, &work)),
        )?;
        spawn(
            "database-reader",
            Box::new(move || questions.into_iter().for_each(|ask| ask(&reader))),
        )?;
        Ok(Self {
            writes,
            reads,
            ended,
            _lock: lock,
        })
    }

    /// Cancelled when the database does nothing any more: its disk failed, or it was dropped.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Does `work` in a transaction shared with whatever else waits. `Ok` means it is on disk. If
    /// `work` fails, what it did is undone and its neighbours are not touched. Dropped before its
    /// turn, it is not done.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        self.submit(work)
            .await
            .unwrap_or(Err(DatabaseError::Closed))
    }

    /// Like [`Self::write`], for callers that do not wait: it is done even if the answer is dropped.
    pub fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, DatabaseError>> {
        self.enqueue(work, false)
    }

    fn enqueue<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        only_if_awaited: bool,
    ) -> oneshot::Receiver<Result<T, DatabaseError>> {
        let (answer, answered) = oneshot::channel();
        let write: Write = Box::new(move |transaction| {
            let mut code = None;
            let done = match transaction {
                // Whoever asked was told that it failed: doing it now would only delay the others.
                Ok(_) if only_if_awaited && answer.is_closed() => Err(DatabaseError::Closed),
                Ok(connection) => in_savepoint(connection, work).map_err(|error| {
                    code = error.sqlite_error_code();
                    failed(error)
                }),
                Err(error) => Err(error),
            };
            let finish: Finish = Box::new(move |committed| {
                // A caller that went away takes no answer; its work stands.
                let _ = answer.send(committed.and(done));
            });
            (finish, code)
        });
        // A closed writer drops the work and with it the answer: the caller sees `Closed`.
        let _ = self.writes.send(write);
        answered
    }

    /// Answers a question from the last committed state.
    pub async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (answer, answered) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            let _ = answer.send(question(connection).map_err(failed));
        });
        let _ = self.reads.send(read);
        answered.await.unwrap_or(Err(DatabaseError::Closed))
    }
}

impl Database {
    /// Moves everything from the log into the file and empties the log.
    pub async fn truncate_log(&self) -> Result<(), DatabaseError> {
        const TRIES: u32 = 6;
        for _ in 0..TRIES {
            // It waits for readers and writers itself, as long as [`BUSY`].
            let checkpoint = |connection: &Connection| {
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            };
            let busy: i64 = self.read(checkpoint).await?;
            if busy == 0 {
                return Ok(());
            }
        }
        let busy = "its log is in use by another process and could not be emptied";
        Err(DatabaseError::Failed(busy.to_owned()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn failed(error: rusqlite::Error) -> DatabaseError {
    DatabaseError::Failed(error.to_string())
}

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
        .map_err(|_| "another pagesync process runs on this directory".to_owned())?;
    Ok(file)
}

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
    if version > SCHEMA_VERSION {
        return Err(format!(
            "its layout is version {version}, this build knows {SCHEMA_VERSION}: use a newer pagesync"
        ));
    }
    Ok(())
}

fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.prepare_cached("SAVEPOINT work")?.execute([])?;
    match work(connection) {
        Ok(done) => {
            connection.prepare_cached("RELEASE work")?.execute([])?;
            Ok(done)
        }
        Err(error) => {
            // SQLite may already have rolled everything back (a full disk); then this fails too and
            // the commit says so.
            let _ = connection.execute_batch("ROLLBACK TO work; RELEASE work");
            Err(error)
        }
    }
}

fn write_all(connection: &Connection, work: &mpsc::Receiver<Write>) {
    while let Ok(first) = work.recv() {
        let rest = std::iter::from_fn(|| work.try_recv().ok());
        let group: Vec<Write> = std::iter::once(first)
            .chain(rest)
            .take(MAX_GROUP_WRITES)
            .collect();
        let (committed, finishes, disk_failed) = write_group(connection, group);
        if let Err(error) = &committed {
            tracing::error!(error = %error, "a commit of the embedded database failed");
        }
        for finish in finishes {
            finish(committed.clone());
        }
        if disk_failed {
            return;
        }
    }
}

/// Does a group in one transaction. The last part of the answer: the disk failed, and what is on it
/// is not known.
fn write_group(
    connection: &Connection,
    group: Vec<Write>,
) -> (Result<(), DatabaseError>, Vec<Finish>, bool) {
    let is_disk = |code: Option<ErrorCode>| code == Some(ErrorCode::SystemIoFailure);
    let (mut finishes, mut disk_failed) = (Vec::with_capacity(group.len()), false);
    let mut open = connection.execute_batch("BEGIN IMMEDIATE").map_err(failed);
    for write in group {
        let (finish, code) = write(open.clone().map(|()| connection));
        finishes.push(finish);
        disk_failed |= is_disk(code);
        // A full or failing disk makes SQLite undo the whole transaction: what follows must not
        // commit by itself.
        if open.is_ok() && connection.is_autocommit() {
            let undone = "the transaction was undone by an error of the disk";
            open = Err(DatabaseError::Failed(undone.to_owned()));
        }
    }
    let committed = open.and_then(|()| {
        connection.execute_batch("COMMIT").map_err(|error| {
            disk_failed |= is_disk(error.sqlite_error_code());
            failed(error)
        })
    });
    if committed.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    (committed, finishes, disk_failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert_and_count(connection: &Connection) -> rusqlite::Result<i64> {
        connection.query_row("SELECT count(*) FROM meta", [], |row| row.get(0))
    }

    #[tokio::test]
    async fn work_that_fails_is_undone_and_its_neighbours_stand() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(directory.path(), Access::Exclusive).unwrap();
        let good = database.submit(|c| c.execute("INSERT INTO meta VALUES ('a', '1')", []));
        let bad = database.submit(|c| {
            c.execute("INSERT INTO meta VALUES ('b', '1')", [])?;
            c.execute("INSERT INTO meta VALUES ('b', '2')", [])
        });
        assert!(good.await.unwrap().is_ok());
        assert!(bad.await.unwrap().is_err());
        assert_eq!(database.read(insert_and_count).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn there_is_one_owner_and_guests_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let owner = Database::open(directory.path(), Access::Exclusive).unwrap();
        let second = Database::open(directory.path(), Access::Exclusive).unwrap_err();
        assert!(second.to_string().contains("another pagesync process"));
        let guest = Database::open(directory.path(), Access::Shared).unwrap();
        guest
            .write(|c| c.execute("INSERT INTO meta VALUES ('g', '1')", []))
            .await
            .unwrap();
        assert_eq!(owner.read(insert_and_count).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_database_of_a_newer_layout_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(directory.path(), Access::Exclusive).unwrap();
        database
            .write(|c| c.pragma_update(None, "user_version", 99))
            .await
            .unwrap();
        drop(database);
        let error = Database::open(directory.path(), Access::Shared).unwrap_err();
        assert!(error.to_string().contains("version 99"), "{error}");
    }
}
