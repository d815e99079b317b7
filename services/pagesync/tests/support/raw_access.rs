//! Direct access to stored data, bypassing the traits `Store` and `Queue`.

use std::fmt::Write as _;
use std::sync::Arc;

use common::store::{RecordKind, Store};
use model::id::PageId;
use model::queue_name::QueueName;

use super::deployment::TestStorage;

impl TestStorage {
    /// Opens the store. Returns it together with its storage, which must live as long as the store.
    pub(crate) fn into_store(self) -> (Self, Arc<dyn Store>) {
        let store = self.store();
        (self, store)
    }

    /// Makes the stored form of a Page unreadable.
    pub(crate) async fn corrupt(&self, id: &PageId) {
        match self {
            Self::Embedded(directory) => {
                let file =
                    rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
                let damage = "UPDATE pages SET attributes = '{' WHERE id = ?1";
                assert_eq!(file.execute(damage, [id.as_str()]).unwrap(), 1);
            }
            Self::Distributed { redis, .. } => {
                let key = format!("{{pagesync}}:page:{id}");
                redis_command(redis, &["HSET", &key, "_registers", "{"]).await;
            }
        }
    }

    /// Writes a text that is not JSON into the body of a record.
    pub(crate) async fn damage_record(&self, kind: RecordKind, id: &str) {
        match self {
            Self::Embedded(directory) => {
                let file =
                    rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
                let damage = "UPDATE records SET body = '{' WHERE kind = ?1 AND id = ?2";
                assert_eq!(file.execute(damage, [kind.name(), id]).unwrap(), 1);
            }
            Self::Distributed { redis, .. } => {
                let key = format!("{{pagesync}}:record:{}:{id}", kind.name());
                redis_command(redis, &["HSET", &key, "body", "{"]).await;
            }
        }
    }

    /// Adds a subject of any kind to the due index.
    pub(crate) async fn add_due(&self, queue_name: QueueName, subject: &str, at: u64) {
        match self {
            Self::Embedded(directory) => {
                let file =
                    rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
                let insert = "INSERT INTO due (subject, queue, at) VALUES (?1, ?2, ?3)";
                let at = at.to_string();
                file.execute(insert, [subject, queue_name.as_str(), &at])
                    .unwrap();
            }
            Self::Distributed { redis, .. } => {
                let key = format!("{{pagesync}}:due:{queue_name}");
                redis_command(redis, &["ZADD", &key, &at.to_string(), subject]).await;
            }
        }
    }

    /// Limits a queue to `bytes`; `None` sets a limit that no test reaches.
    pub(crate) async fn limit_queue(&self, queue_name: QueueName, bytes: Option<u64>) {
        match self {
            Self::Embedded(directory) => {
                let file =
                    rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
                let bytes = i64::try_from(bytes.unwrap_or(1 << 31)).unwrap();
                let limit = "UPDATE queues SET max_bytes = ?1 WHERE queue = ?2";
                let values = rusqlite::params![bytes, queue_name.as_str()];
                assert_eq!(file.execute(limit, values).unwrap(), 1);
            }
            Self::Distributed { vhost, .. } => {
                let bytes = bytes.unwrap_or(1 << 30);
                let name = format!("pagesync.v2.{queue_name}");
                vhost.limit_queue(&name, bytes).await;
            }
        }
    }

    /// Returns everything that is stored, as text: the database file with its write-ahead log, or
    /// every key of Redis with its value.
    pub(crate) async fn everything_stored(&self) -> String {
        match self {
            Self::Embedded(directory) => {
                let mut all = String::new();
                for name in ["pagesync.db", "pagesync.db-wal"] {
                    let bytes = std::fs::read(directory.path().join(name)).unwrap_or_default();
                    all.push_str(&String::from_utf8_lossy(&bytes));
                }
                all
            }
            Self::Distributed { redis, .. } => {
                let mut all = String::new();
                let keys = redis_command(redis, &["KEYS", "*"]).await;
                let redis::Value::Array(keys) = keys else {
                    panic!("{keys:?}")
                };
                assert!(keys.len() > 10, "{} keys", keys.len());
                for key in keys {
                    let name: String = redis::from_redis_value(key).unwrap();
                    let kind = redis_command(redis, &["TYPE", &name]).await;
                    let kind: String = redis::from_redis_value(kind).unwrap();
                    let value = match kind.as_str() {
                        "hash" => redis_command(redis, &["HGETALL", &name]).await,
                        "zset" => redis_command(redis, &["ZRANGE", &name, "0", "-1"]).await,
                        "stream" => redis_command(redis, &["XRANGE", &name, "-", "+"]).await,
                        "list" => redis_command(redis, &["LRANGE", &name, "0", "-1"]).await,
                        "set" => redis_command(redis, &["SMEMBERS", &name]).await,
                        _ => redis_command(redis, &["GET", &name]).await,
                    };
                    writeln!(all, "{name} {value:?}").unwrap();
                }
                all
            }
        }
    }

    /// Deletes the entries of the feed up to number `n`.
    pub(crate) async fn trim_feed_up_to(&self, n: u64) {
        match self {
            Self::Embedded(directory) => {
                let file =
                    rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
                file.execute(
                    "DELETE FROM feed WHERE n <= ?1",
                    [i64::try_from(n).unwrap()],
                )
                .unwrap();
            }
            Self::Distributed { redis, .. } => {
                let from = format!("{}-0", n + 1);
                redis_command(redis, &["XTRIM", "{pagesync}:feed", "MINID", &from]).await;
            }
        }
    }

    /// Replaces the newest entry of the change feed, which has this number, with this text.
    pub(crate) async fn replace_feed_entry(&self, n: u64, entry: &str) {
        match self {
            Self::Embedded(directory) => {
                let file =
                    rusqlite::Connection::open(directory.path().join("pagesync.db")).unwrap();
                let update = "UPDATE feed SET entry = ?2 WHERE n = ?1";
                let n = i64::try_from(n).unwrap();
                assert_eq!(
                    file.execute(update, rusqlite::params![n, entry]).unwrap(),
                    1
                );
            }
            Self::Distributed { redis, .. } => {
                // Redis never adds an entry whose id is not greater than every earlier one.
                let feed = "{pagesync}:feed";
                let earlier = format!("({n}-0");
                let earlier = redis_command(redis, &["XRANGE", feed, "-", &earlier]).await;
                let mut entries: Vec<(String, Vec<String>)> =
                    redis::from_redis_value(earlier).unwrap();
                entries.push((format!("{n}-0"), vec!["entry".to_owned(), entry.to_owned()]));
                redis_command(redis, &["DEL", feed]).await;
                for (id, fields) in &entries {
                    let words = ["XADD", feed, id].into_iter();
                    let words: Vec<&str> = words.chain(fields.iter().map(String::as_str)).collect();
                    redis_command(redis, &words).await;
                }
            }
        }
    }
}

/// Sends a command to Redis, as `redis-cli` would, and returns the reply.
pub(crate) async fn redis_command(url: &str, words: &[&str]) -> redis::Value {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.unwrap()
}
