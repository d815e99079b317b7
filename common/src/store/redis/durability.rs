//! Defines how durable a commit to Redis is.

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When Redis has executed it. Redis syncs its append-only file within a second, and polls
    /// restore what a crash loses. A commit that contains a login also waits for the disk.
    Relaxed,
    /// When Redis has synced its append-only file to disk.
    Fsync,
}
