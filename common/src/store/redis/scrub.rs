//! Taking what was deleted out of Redis' append-only file, by having it rewritten.

use std::time::Duration;

use super::RedisStore;
use super::StoreError;
use super::reply::{parse, unavailable};

/// How long a rewrite is waited for; it goes on without us.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

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
                lines.any(|(held, text)| held == name && text.trim_end() == value)
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
                let asked = redis::cmd("BGREWRITEAOF")
                    .query_async(&mut connection)
                    .await;
                let _: String = asked.map_err(|error| unavailable(&error))?;
                begun = true;
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
