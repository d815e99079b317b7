//! The durability of commits to Redis.

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When Redis has executed it. Redis syncs its append-only file within a second, and polls
    /// restore the data that a crash loses. A commit that no poll can restore, such as a login or
    /// the end of a connection, also waits for the disk; a failure of this wait is only logged.
    Relaxed,
    /// When Redis has synced its append-only file to disk.
    Fsync,
}
