//! The durability of commits to Redis.

/// When a commit counts as durable. A job is acknowledged only after its commits are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When Redis has executed it. Redis syncs its append-only file within a second, and a crash
    /// loses the commits since then. Polls restore the values of Pages, but not dead letters, Pages
    /// without a connection, the numbers of missed webhooks, and erasures. A login and the end of a
    /// connection also wait for the disk; a failure of this wait is only logged.
    Relaxed,
    /// When Redis has synced its append-only file to disk.
    Fsync,
    /// When this many replicas have received it.
    Replicated(u16),
}

impl Durability {
    /// Parses `relaxed`, `fsync`, or `replicated:<n>` with the number of replicas.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "relaxed" => Some(Self::Relaxed),
            "fsync" => Some(Self::Fsync),
            _ => {
                let replicas = text.strip_prefix("replicated:")?.parse().ok()?;
                (replicas > 0).then_some(Self::Replicated(replicas))
            }
        }
    }
}
