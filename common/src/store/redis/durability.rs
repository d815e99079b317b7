//! How durable a commit to Redis is.

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When Redis has it; its log reaches the disk within a second. Polls heal what a crash takes.
    Relaxed,
    /// When Redis' log is on disk.
    Fsync,
}
