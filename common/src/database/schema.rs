//! The schema of the embedded database, as numbered steps.
//!
//! Invariants: a step that was released never changes, because databases exist that it has created.
//! A change of the schema is a new step at the end of [`STEPS`]. Each step is executed in one
//! transaction together with its number, so a process that dies in between repeats it.

use rusqlite::Connection;

/// The first version that this build can bring up to date. Version 1 was the schema of pagesync
/// 0.1.
const FIRST_VERSION: i64 = 2;

/// The steps, each with the version (`PRAGMA user_version`) that the schema has after it.
const STEPS: [(i64, &str); 7] = [
    (2, TABLES),
    (3, LEASES_AND_DEPTHS),
    (4, QUEUE_OF_LOGINS),
    (5, PAGES_BY_STATUS),
    (6, CLIENTS_AND_CHANGES),
    (7, QUEUE_OF_FORWARDS),
    (8, UNPUBLISHED_PAGES),
];

/// Step 2: the tables.
const TABLES: &str = "
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

/// Step 3: an index on leased messages, and the number of waiting messages of each queue. Without
/// them, an acknowledgement and a query of the depth read the whole queue.
const LEASES_AND_DEPTHS: &str = "
CREATE INDEX messages_leased ON messages (queue, lease) WHERE lease IS NOT NULL;
ALTER TABLE queues ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0;
UPDATE queues SET waiting = (SELECT count(*) FROM messages WHERE messages.queue = queues.queue AND lease IS NULL);
DROP TRIGGER message_in;
DROP TRIGGER message_out;
CREATE TRIGGER message_in AFTER INSERT ON messages BEGIN
  UPDATE queues SET bytes = bytes + length(new.body), waiting = waiting + (new.lease IS NULL) WHERE queue = new.queue;
END;
CREATE TRIGGER message_out AFTER DELETE ON messages BEGIN
  UPDATE queues SET bytes = bytes - length(old.body), waiting = waiting - (old.lease IS NULL) WHERE queue = old.queue;
END;
CREATE TRIGGER message_leased AFTER UPDATE OF lease ON messages WHEN (old.lease IS NULL) != (new.lease IS NULL) BEGIN
  UPDATE queues SET waiting = waiting + (new.lease IS NULL) - (old.lease IS NULL) WHERE queue = new.queue;
END;
";

/// Step 4: the queue of logins.
const QUEUE_OF_LOGINS: &str =
    "INSERT INTO queues (queue, bytes, max_bytes) VALUES ('logins', 0, 268435456);";

/// Step 5: an index of the Pages by their status. SQLite computes the status from the attributes.
const PAGES_BY_STATUS: &str = "
ALTER TABLE pages ADD COLUMN status TEXT GENERATED ALWAYS AS (
  coalesce(CASE WHEN json_valid(attributes) THEN json_extract(attributes, '$._status') END, 'corrupt')
) VIRTUAL;
CREATE INDEX pages_by_status ON pages (status, id);
";

/// Step 6: the Pages by client and by connection, the values of the entries of the change feed, and a view
/// for other programs, which `docs/state.md` describes.
const CLIENTS_AND_CHANGES: &str = "
ALTER TABLE pages ADD COLUMN client TEXT GENERATED ALWAYS AS (
  CASE WHEN json_valid(attributes) THEN json_extract(attributes, '$._client') END
) VIRTUAL;
ALTER TABLE pages ADD COLUMN connections TEXT GENERATED ALWAYS AS (
  CASE WHEN json_valid(attributes) THEN json_extract(attributes, '$._connections') END
) VIRTUAL;
CREATE INDEX pages_by_client ON pages (client, id) WHERE client IS NOT NULL;
CREATE TABLE page_connections (person TEXT NOT NULL, page TEXT NOT NULL, PRIMARY KEY (person, page)) WITHOUT ROWID;
CREATE INDEX connections_of_page ON page_connections (page);
INSERT INTO page_connections SELECT people.value, pages.id FROM pages, json_each(pages.connections) AS people
  WHERE json_valid(pages.connections);
ALTER TABLE feed ADD COLUMN page TEXT GENERATED ALWAYS AS (
  CASE WHEN json_valid(entry) THEN json_extract(entry, '$.page') END
) VIRTUAL;
ALTER TABLE feed ADD COLUMN changes TEXT;
ALTER TABLE feed ADD COLUMN former_client TEXT;
CREATE INDEX feed_by_page ON feed (page) WHERE changes IS NOT NULL;
CREATE VIEW pages_v1 AS
  SELECT id, status, client, version, json_extract(attributes, '$.name') AS name,
    coalesce(connections, '[]') AS connections,
    (SELECT json_group_object(field.key, CASE json_extract(field.value, '$[4]')
       WHEN 'n' THEN NULL
       WHEN 'j' THEN json(json_extract(attributes, '$.\"' || field.key || '\"'))
       ELSE json_extract(attributes, '$.\"' || field.key || '\"')
     END)
     FROM json_each(json_extract(attributes, '$._registers')) AS field) AS fields
  FROM pages WHERE json_valid(attributes);
";

/// Step 7: the queue of deliveries that are forwarded.
const QUEUE_OF_FORWARDS: &str =
    "INSERT INTO queues (queue, bytes, max_bytes) VALUES ('forwards', 0, 8589934592);";

/// Step 8: the Pages whose field `is_published` is false.
const UNPUBLISHED_PAGES: &str = "
ALTER TABLE pages ADD COLUMN is_unpublished INTEGER GENERATED ALWAYS AS (
  CASE WHEN json_valid(attributes) THEN json_extract(attributes, '$.is_published') = 'false' END
) VIRTUAL;
CREATE INDEX unpublished_pages ON pages (id) WHERE is_unpublished;
";

/// The value of `PRAGMA auto_vacuum` that makes freed pages removable from the file.
const INCREMENTAL: i64 = 2;

/// Creates the schema in a new database, or executes the steps that an existing one lacks. Fails if
/// the schema is of another version that this build does not support.
pub(super) fn prepare(connection: &Connection) -> Result<(), String> {
    let text = |error: rusqlite::Error| error.to_string();
    let last = STEPS[STEPS.len() - 1].0;
    let present = version(connection).map_err(text)?;
    if present != 0 && present < FIRST_VERSION {
        return Err(format!(
            "its schema is version {present}, which pagesync 0.1 wrote, and this build supports version {last}: start with an empty data directory"
        ));
    }
    if present > last {
        return Err(format!(
            "its schema is version {present} and this build supports version {last}: use a newer pagesync"
        ));
    }
    for (to, statements) in STEPS {
        if version(connection).map_err(text)? < to {
            execute_step(connection, to, statements).map_err(text)?;
        }
    }
    Ok(())
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Executes one step, unless another process has executed it meanwhile.
fn execute_step(connection: &Connection, to: i64, statements: &str) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let executed = (|| {
        if version(connection)? < to {
            connection.execute_batch(statements)?;
            connection.pragma_update(None, "user_version", to)?;
        }
        connection.execute_batch("COMMIT")
    })();
    if executed.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    executed
}

/// Makes freed pages removable in a file that an earlier version created. This rewrites the file
/// once. If that fails, for example because the disk has no room, the file stays as it is and works,
/// but does not shrink. The next start tries again.
pub(super) fn enable_incremental_vacuum(connection: &Connection) {
    let rewritten = || {
        let present: i64 = connection.query_row("PRAGMA auto_vacuum", [], |row| row.get(0))?;
        if present != INCREMENTAL {
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.execute_batch("VACUUM")?;
        }
        Ok(())
    };
    if let Err(error) = rewritten() {
        let error: rusqlite::Error = error;
        tracing::warn!(error = %error, "the database could not be rewritten; its file does not shrink after a backlog until the next start");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the definitions of all tables, indexes and triggers.
    fn definitions(connection: &Connection) -> Vec<String> {
        let mut select = connection
            .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
            .unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    fn depth(connection: &Connection, queue: &str) -> (i64, i64) {
        let select = "SELECT waiting, bytes FROM queues WHERE queue = ?1";
        connection
            .query_row(select, [queue], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
    }

    #[test]
    fn each_step_is_executed_once_and_keeps_the_messages() {
        let new = Connection::open_in_memory().unwrap();
        prepare(&new).unwrap();
        let old = Connection::open_in_memory().unwrap();
        execute_step(&old, 2, TABLES).unwrap();
        for (queue, lease) in [
            ("webhooks", "NULL"),
            ("webhooks", "7"),
            ("polls_now", "NULL"),
        ] {
            let insert = format!(
                "INSERT INTO messages (queue, attempt, lease, body) VALUES ('{queue}', 0, {lease}, x'00')"
            );
            old.execute_batch(&insert).unwrap();
        }
        for _ in 0..2 {
            prepare(&old).unwrap();
            assert_eq!(definitions(&old), definitions(&new));
            assert_eq!(version(&old).unwrap(), STEPS[STEPS.len() - 1].0);
            assert_eq!(depth(&old, "webhooks"), (1, 2));
            assert_eq!(depth(&old, "polls_now"), (1, 1));
        }
    }

    #[test]
    fn a_step_that_fails_leaves_the_schema_as_it_was() {
        let connection = Connection::open_in_memory().unwrap();
        execute_step(&connection, 2, TABLES).unwrap();
        let before = definitions(&connection);
        let broken = "CREATE TABLE new (a); CREATE TABLE new (a);";
        execute_step(&connection, 3, broken).unwrap_err();
        assert_eq!(definitions(&connection), before);
        assert_eq!(version(&connection).unwrap(), 2);
        prepare(&connection).unwrap();
    }

    #[test]
    fn the_number_of_waiting_messages_follows_every_change() {
        let connection = Connection::open_in_memory().unwrap();
        prepare(&connection).unwrap();
        for (change, waiting) in [
            (
                "INSERT INTO messages (queue, attempt, body) VALUES ('webhooks', 0, x'0000'), ('webhooks', 0, x'00')",
                2,
            ),
            ("UPDATE messages SET lease = 1 WHERE id = 1", 1),
            ("UPDATE messages SET lease = 2 WHERE id = 1", 1),
            ("UPDATE messages SET lease = NULL WHERE lease = 2", 2),
            ("UPDATE messages SET lease = 3", 0),
            ("DELETE FROM messages WHERE id = 1", 0),
            ("UPDATE messages SET lease = NULL", 1),
            ("DELETE FROM messages", 0),
        ] {
            connection.execute_batch(change).unwrap();
            assert_eq!(depth(&connection, "webhooks").0, waiting, "{change}");
        }
        assert_eq!(depth(&connection, "webhooks"), (0, 0));
    }
}
