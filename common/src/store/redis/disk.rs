//! Redis' append-only file: waiting until a write is in it, and having it rewritten without what was
//! deleted.

use std::time::Duration;

use deadpool_redis::Connection;
use redis::RedisResult;

use super::client::RedisStore;
use super::reply::{parse, unavailable};
use crate::store::{Commit, RecordKind, RecordWrite, StoreError};

/// How long a rewrite is waited for; it goes on without us.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// How long the disk may take in `fsync` mode.
const FSYNC: Duration = Duration::from_millis(1500);

impl RedisStore {
    /// Begins a rewrite after any that is under way, and waits until it has ended well.
    pub(super) async fn rewrite_log(&self) -> Result<(), StoreError> {
        let rewritten = tokio::time::timeout(PATIENCE, self.rewrite()).await;
        rewritten.unwrap_or_else(|_| {
            let late = "Redis still rewrites its append-only file";
            Err(StoreError::Unavailable(late.to_owned()))
        })
    }

    async fn rewrite(&self) -> Result<(), StoreError> {
        let mut begun = false;
        loop {
            let info = self.persistence().await?;
            let is = |name: &str, value: &str| {
                let mut lines = info.lines().filter_map(|line| line.split_once(':'));
                lines.any(|(stored, text)| stored == name && text.trim_end() == value)
            };
            if is("aof_enabled", "0") {
                return self.snapshot().await;
            }
            let at_rest = is("aof_rewrite_in_progress", "0") && is("aof_rewrite_scheduled", "0");
            if at_rest && begun {
                return if is("aof_last_bgrewrite_status", "ok") {
                    Ok(())
                } else {
                    let why = "Redis could not rewrite its append-only file: is its disk full?";
                    Err(StoreError::Unavailable(why.to_owned()))
                };
            }
            if at_rest {
                let mut connection = self.connection().await?;
                let asked: RedisResult<String> = redis::cmd("BGREWRITEAOF")
                    .query_async(&mut connection)
                    .await;
                match asked {
                    Ok(_) => begun = true,
                    // Somebody else's began since we looked, which was after our deletions: it will do.
                    Err(error) if error.to_string().contains("already in progress") => begun = true,
                    Err(error) => return Err(unavailable(&error)),
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Without an append-only file: a new snapshot in the place of the old one, if snapshots are made.
    async fn snapshot(&self) -> Result<(), StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("CONFIG").arg("GET").arg("save");
        let save: Vec<String> = parse(self.ask_all(&mut pipeline).await?.pop())?;
        if save.get(1).is_none_or(String::is_empty) {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("SAVE");
        self.ask_all(&mut pipeline).await.map(drop)
    }

    async fn persistence(&self) -> Result<String, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("persistence");
        parse(self.ask_all(&mut pipeline).await?.pop())
    }
}

/// Whether a commit holds what no poll could bring back: a login, or the end of one.
pub(super) fn cannot_be_polled_again(commit: &Commit) -> bool {
    commit.records.iter().any(|write| {
        let (RecordWrite::Put { key, .. }
        | RecordWrite::Delete { key, .. }
        | RecordWrite::Add { key, .. }) = write;
        matches!(
            key.kind,
            RecordKind::Grant | RecordKind::UserToken | RecordKind::Epoch
        )
    })
}

/// Waits until everything this connection wrote is on the server's disk.
pub(super) async fn wait_for_disk(connection: &mut Connection) -> Result<(), StoreError> {
    let millis = u64::try_from(FSYNC.as_millis()).unwrap_or(0);
    let mut ask = redis::cmd("WAITAOF");
    let asked: RedisResult<(i64, i64)> =
        ask.arg(1).arg(0).arg(millis).query_async(connection).await;
    match asked {
        Ok((local, _)) if local >= 1 => Ok(()),
        Ok(_) => Err(StoreError::Unavailable(
            "the log did not reach the disk in time".to_owned(),
        )),
        // Before 7.2 there is no WAITAOF; there a log that is synced before every answer will do.
        Err(error) if error.to_string().contains("unknown command") => {
            let mut ask = redis::pipe();
            for setting in ["appendonly", "appendfsync"] {
                ask.cmd("CONFIG").arg("GET").arg(setting);
            }
            let asked: RedisResult<Vec<Vec<String>>> = ask.query_async(connection).await;
            let values = asked.unwrap_or_default();
            match values.iter().flatten().collect::<Vec<_>>()[..] {
                [_, log, _, policy] if log == "yes" && policy == "always" => Ok(()),
                _ => Err(StoreError::Unavailable(
                    "Redis before 7.2 has a write on its disk only with appendonly yes and appendfsync always".to_owned(),
                )),
            }
        }
        Err(error) => Err(unavailable(&error)),
    }
}
