//! The server's settings: which must not be, which should be thought about.

use redis::{Value as Reply, from_redis_value};

use super::client::RedisStore;
use super::durability::Durability;
use crate::store::StoreError;

impl RedisStore {
    /// Refusals and warnings, each with its remedy.
    pub(super) async fn settings(&self) -> Result<(Vec<String>, Vec<String>), StoreError> {
        let mut pipeline = redis::pipe();
        for name in ["maxmemory-policy", "appendonly", "appendfsync", "save"] {
            pipeline.cmd("CONFIG").arg("GET").arg(name);
        }
        pipeline.cmd("COMMAND").arg("INFO").arg("WAITAOF");
        let mut connection = self.connection().await?;
        let answers = self.ask(&mut connection, &mut pipeline).await?;
        let setting = |i: usize| {
            let pair: Vec<String> = answers
                .get(i)?
                .as_ref()
                .ok()
                .and_then(|reply| from_redis_value(reply.clone()).ok())?;
            pair.into_iter().nth(1)
        };
        let (mut refusals, mut warnings) = (Vec::new(), Vec::new());
        let (policy, aof, fsync) = (setting(0), setting(1), setting(2));
        match policy.as_deref() {
            Some(policy) if policy != "noeviction" => refusals.push(format!(
                "Redis may evict what it must keep (maxmemory-policy {policy}): set maxmemory-policy noeviction"
            )),
            Some(_) => {}
            None => warnings.push("Redis does not let us read its settings: make sure of maxmemory-policy noeviction and appendonly yes".to_owned()),
        }
        let without_log = aof.as_deref() == Some("no");
        if without_log && self.durability == Durability::Fsync {
            refusals.push(
                "PAGESYNC_REDIS_DURABILITY=fsync needs Redis' append-only file: set appendonly yes"
                    .to_owned(),
            );
        } else if without_log {
            warnings.push("Redis keeps no append-only file: a restart loses what changed since its last snapshot. Set appendonly yes".to_owned());
        }
        if setting(3).is_some_and(|save| !save.is_empty()) {
            warnings.push("Redis keeps snapshots beside its append-only file, and with them what was erased, until the next one: set save \"\"".to_owned());
        }
        if self.durability == Durability::Fsync && fsync.as_deref() == Some("everysec") {
            warnings.push("PAGESYNC_REDIS_DURABILITY=fsync waits up to a second for each commit while Redis' appendfsync is everysec: set appendfsync always".to_owned());
        }
        let has_waitaof = matches!(answers.get(4), Some(Ok(Reply::Array(found))) if !matches!(found.first(), None | Some(Reply::Nil)));
        if self.durability == Durability::Fsync
            && !has_waitaof
            && fsync.as_deref() != Some("always")
        {
            refusals.push(
                "PAGESYNC_REDIS_DURABILITY=fsync needs Redis 7.2 or appendfsync always".to_owned(),
            );
        }
        Ok((refusals, warnings))
    }
}
