//! Checks the settings of the Redis server.
//!
//! Invariant: every problem names the setting that fixes it.

use redis::{Value as Reply, from_redis_value};

use super::client::RedisStore;
use super::durability::Durability;
use crate::store::StoreError;

impl RedisStore {
    /// Returns errors, with which the store must not be used, and warnings. Each names its remedy.
    pub(super) async fn settings(&self) -> Result<(Vec<String>, Vec<String>), StoreError> {
        let mut pipeline = redis::pipe();
        for name in ["maxmemory-policy", "appendonly", "appendfsync", "save"] {
            pipeline.cmd("CONFIG").arg("GET").arg(name);
        }
        pipeline.cmd("COMMAND").arg("INFO").arg("WAITAOF");
        let mut connection = self.connection().await?;
        let replies = self.query_each(&mut connection, &mut pipeline).await?;
        let setting = |i: usize| {
            let pair: Vec<String> = replies
                .get(i)?
                .as_ref()
                .ok()
                .and_then(|reply| from_redis_value(reply.clone()).ok())?;
            pair.into_iter().nth(1)
        };
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        let (policy, appendonly, appendfsync) = (setting(0), setting(1), setting(2));
        match policy.as_deref() {
            Some(policy) if policy != "noeviction" => errors.push(format!(
                "Redis may evict data when its memory is full (maxmemory-policy {policy}): set maxmemory-policy noeviction"
            )),
            Some(_) => {}
            None => warnings.push("Redis does not allow pagesync to read its settings: make sure that maxmemory-policy is noeviction and appendonly is yes".to_owned()),
        }
        let has_no_log = appendonly.as_deref() == Some("no");
        if has_no_log && self.durability == Durability::Fsync {
            errors.push(
                "PAGESYNC_REDIS_DURABILITY=fsync needs the append-only file of Redis: set appendonly yes"
                    .to_owned(),
            );
        } else if has_no_log {
            warnings.push("Redis has no append-only file, so a restart loses all changes since its last snapshot: set appendonly yes".to_owned());
        }
        if setting(3).is_some_and(|save| !save.is_empty()) {
            warnings.push("Redis makes snapshots in addition to its append-only file, and a snapshot contains erased data until the next one replaces it: set save \"\"".to_owned());
        }
        if self.durability == Durability::Fsync && appendfsync.as_deref() == Some("everysec") {
            warnings.push("PAGESYNC_REDIS_DURABILITY=fsync waits up to a second for each commit while appendfsync of Redis is everysec: set appendfsync always".to_owned());
        }
        let has_waitaof = matches!(replies.get(4), Some(Ok(Reply::Array(commands))) if !matches!(commands.first(), None | Some(Reply::Nil)));
        if self.durability == Durability::Fsync
            && !has_waitaof
            && appendfsync.as_deref() != Some("always")
        {
            errors.push(
                "PAGESYNC_REDIS_DURABILITY=fsync needs Redis 7.2 or appendfsync always".to_owned(),
            );
        }
        Ok((errors, warnings))
    }
}
