//! The way in which a process uses the embedded database.

/// The way in which a process uses the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The use by `pagesync up`. At most one process can open the database this way.
    Exclusive,
    /// The use by a command, which can run at the same time as `pagesync up`.
    Shared,
}
