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
        pipeline.cmd("INFO").arg("persistence");
        pipeline.cmd("INFO").arg("replication");
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
        // Some managed servers refuse CONFIG GET, but not INFO.
        let info = |i: usize, name: &str| {
            let text: String = from_redis_value(replies.get(i)?.as_ref().ok()?.clone()).ok()?;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim_end().to_owned())
        };
        let has_no_log =
            appendonly.as_deref() == Some("no") || info(5, "aof_enabled").as_deref() == Some("0");
        let replicas = info(6, "connected_slaves").and_then(|text| text.parse::<u16>().ok());
        match durability_problem(self.durability, has_no_log, replicas) {
            Some((Severity::Error, text)) => errors.push(text),
            Some((Severity::Warning, text)) => warnings.push(text),
            None => {}
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

/// Whether the store may be used in spite of a problem.
enum Severity {
    Error,
    Warning,
}

/// Returns what the server cannot promise of a durability, or what the durability may lose.
/// `replicas` is the number of connected replicas, or `None` if the server does not report it.
fn durability_problem(
    durability: Durability,
    has_no_log: bool,
    replicas: Option<u16>,
) -> Option<(Severity, String)> {
    let has_replica = replicas.is_some_and(|replicas| replicas > 0);
    let (severity, text) = match durability {
        Durability::Fsync if has_no_log => (
            Severity::Error,
            "PAGESYNC_REDIS_DURABILITY=fsync needs the append-only file of Redis: set appendonly yes and appendfsync always. Where Redis can have none, choose replicated:<n>, or relaxed, with which acknowledged work may be lost".to_owned(),
        ),
        Durability::Replicated(wanted) if replicas.is_some_and(|replicas| replicas < wanted) => (
            Severity::Error,
            format!(
                "PAGESYNC_REDIS_DURABILITY=replicated:{wanted} needs {wanted} connected replicas, and Redis has {}: start them",
                replicas.unwrap_or(0)
            ),
        ),
        Durability::Fsync | Durability::Replicated(_) => return None,
        Durability::Relaxed if has_no_log && has_replica => (
            Severity::Warning,
            "Redis has no append-only file, so a restart loses all changes since its last snapshot unless a replica takes over: set appendonly yes".to_owned(),
        ),
        Durability::Relaxed if has_no_log => (
            Severity::Warning,
            "acknowledged work may be lost: Redis has neither an append-only file nor replicas, so a restart loses all changes since its last snapshot: set appendonly yes".to_owned(),
        ),
        Durability::Relaxed => (
            Severity::Warning,
            "a crash of Redis may lose the acknowledged work of its last second: dead letters, Pages without a connection, numbers of missed webhooks, and erasures (PAGESYNC_REDIS_DURABILITY=relaxed): choose fsync with appendfsync always".to_owned(),
        ),
    };
    Some((severity, text))
}
