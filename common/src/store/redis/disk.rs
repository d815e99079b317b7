//! Controls the append-only file of Redis: waits until writes are in it, and has Redis rewrite it
//! without deleted data.
//!
//! Invariant: a rewrite removes deleted data only if it began after the deletion, so a rewrite that
//! is already under way does not count.

use std::time::{Duration, Instant};

use deadpool_redis::Connection;
use redis::RedisResult;

use super::client::RedisStore;
use super::reply::{parse, unavailable};
use crate::store::{Commit, RecordKind, RecordWrite, StoreError};

/// How long Redis may report neither the progress of a rewrite nor its end.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the state of a rewrite is read.
const REWRITE_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How long to wait until the append-only file is synced to disk, or until the replicas answer.
const DURABILITY_TIMEOUT: Duration = Duration::from_millis(1500);

impl RedisStore {
    /// Rewrites the append-only file, after a rewrite that is already under way, and waits for its
    /// end, however long it takes. Fails if the rewrite fails or does not begin. If there is no
    /// append-only file, a snapshot replaces the previous one.
    pub(super) async fn rewrite_log(&self) -> Result<(), StoreError> {
        let mut has_started = false;
        let mut last_progress = Instant::now();
        loop {
            let info = match self.persistence().await {
                Ok(info) => info,
                Err(_) if has_started && last_progress.elapsed() < STALL_TIMEOUT => {
                    tokio::time::sleep(REWRITE_CHECK_INTERVAL).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let is = |name: &str, value: &str| {
                let mut lines = info.lines().filter_map(|line| line.split_once(':'));
                lines.any(|(key, text)| key == name && text.trim_end() == value)
            };
            if is("aof_enabled", "0") {
                return self.snapshot().await;
            }
            let is_idle = is("aof_rewrite_in_progress", "0") && is("aof_rewrite_scheduled", "0");
            if is_idle && has_started {
                return if is("aof_last_bgrewrite_status", "ok") {
                    Ok(())
                } else {
                    let reason = "Redis could not rewrite its append-only file: check its disk";
                    Err(StoreError::Unavailable(reason.to_owned()))
                };
            }
            // Redis does not begin a scheduled rewrite while another child process writes a file, or
            // if it has too little memory for one.
            if is_idle || is("aof_rewrite_in_progress", "1") || is("rdb_bgsave_in_progress", "1") {
                last_progress = Instant::now();
            } else if last_progress.elapsed() > STALL_TIMEOUT {
                let reason =
                    "Redis does not begin to rewrite its append-only file: check its memory";
                return Err(StoreError::Unavailable(reason.to_owned()));
            }
            if is_idle {
                let mut connection = self.connection().await?;
                let reply: RedisResult<String> = redis::cmd("BGREWRITEAOF")
                    .query_async(&mut connection)
                    .await;
                match reply {
                    Ok(_) => has_started = true,
                    // Another client has started a rewrite since the state was read. That rewrite
                    // began after the deletions, so it removes the deleted data too.
                    Err(error) if error.to_string().contains("already in progress") => {
                        has_started = true;
                    }
                    Err(error) => return Err(unavailable(&error)),
                }
            }
            tokio::time::sleep(REWRITE_CHECK_INTERVAL).await;
        }
    }

    /// Replaces the snapshot of a server that has no append-only file, if it makes snapshots.
    async fn snapshot(&self) -> Result<(), StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("CONFIG").arg("GET").arg("save");
        let save: Vec<String> = parse(self.query_all(&mut pipeline).await?.pop())?;
        if save.get(1).is_none_or(String::is_empty) {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("SAVE");
        self.query_all(&mut pipeline).await.map(drop)
    }

    /// Returns the section `persistence` of `INFO`.
    async fn persistence(&self) -> Result<String, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("persistence");
        parse(self.query_all(&mut pipeline).await?.pop())
    }
}

/// Returns whether a commit writes or deletes a record that no poll can restore: a token exchange,
/// the token of a person, or the epoch of a connection.
pub(super) fn polls_cannot_restore(commit: &Commit) -> bool {
    commit.records.iter().any(|write| {
        let (RecordWrite::Put { key, .. }
        | RecordWrite::Delete { key, .. }
        | RecordWrite::Add { key, .. }) = write;
        matches!(
            key.kind,
            RecordKind::TokenExchange | RecordKind::UserToken | RecordKind::ConnectionEpoch
        )
    })
}

/// Returns [`DURABILITY_TIMEOUT`] in the unit of Redis.
fn timeout_millis() -> u64 {
    u64::try_from(DURABILITY_TIMEOUT.as_millis()).unwrap_or(0)
}

/// Waits until this many replicas have received all writes of this connection. Fails if fewer of
/// them confirm it within [`DURABILITY_TIMEOUT`].
pub(super) async fn wait_for_replicas(
    connection: &mut Connection,
    replicas: u16,
) -> Result<(), StoreError> {
    let mut command = redis::cmd("WAIT");
    command.arg(replicas).arg(timeout_millis());
    let reply: RedisResult<u16> = command.query_async(connection).await;
    match reply {
        Ok(reached) if reached >= replicas => Ok(()),
        Ok(reached) => Err(StoreError::Unavailable(format!(
            "{reached} of {replicas} replicas of Redis have the commit"
        ))),
        Err(error) => Err(unavailable(&error)),
    }
}

/// Waits until all writes of this connection are on the disk of the server. Fails if the server
/// does not confirm it within [`DURABILITY_TIMEOUT`].
pub(super) async fn wait_for_disk(connection: &mut Connection) -> Result<(), StoreError> {
    let mut command = redis::cmd("WAITAOF");
    command.arg(1).arg(0).arg(timeout_millis());
    let reply: RedisResult<(i64, i64)> = command.query_async(connection).await;
    match reply {
        Ok((local, _)) if local >= 1 => Ok(()),
        Ok(_) => Err(StoreError::Unavailable(
            "Redis did not sync its append-only file to disk in time".to_owned(),
        )),
        // Redis before 7.2 has no WAITAOF. Its writes are on disk if it syncs before every reply.
        Err(error) if error.to_string().contains("unknown command") => {
            let mut pipeline = redis::pipe();
            for setting in ["appendonly", "appendfsync"] {
                pipeline.cmd("CONFIG").arg("GET").arg(setting);
            }
            let reply: RedisResult<Vec<Vec<String>>> = pipeline.query_async(connection).await;
            let settings = reply.unwrap_or_default();
            match settings.iter().flatten().collect::<Vec<_>>()[..] {
                [_, appendonly, _, appendfsync]
                    if appendonly == "yes" && appendfsync == "always" =>
                {
                    Ok(())
                }
                _ => Err(StoreError::Unavailable(
                    "Redis before 7.2 syncs every write only with its settings appendonly yes and appendfsync always".to_owned(),
                )),
            }
        }
        Err(error) => Err(unavailable(&error)),
    }
}
