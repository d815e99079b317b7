//! The error of the embedded database.

/// The reason why an operation of the database failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// The file cannot be opened, is in use, or has the schema of a newer version.
    #[error("cannot open the database {path}: {reason}")]
    Open {
        /// The path of the file.
        path: String,
        /// The problem, and its remedy if there is one.
        reason: String,
    },
    /// A statement or a commit failed.
    #[error("the database failed: {0}")]
    Failed(String),
    /// The caller of the write has given up before its turn, so the write was not executed.
    #[error("the caller has given up")]
    Abandoned,
    /// The thread that executes the operation has ended, usually after an I/O error of the disk.
    #[error("the database is closed after a disk error: repair the disk, then restart pagesync")]
    Closed,
}

/// Converts an error of SQLite.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that map_err needs"
)]
pub(super) fn failed(error: rusqlite::Error) -> DatabaseError {
    DatabaseError::Failed(error.to_string())
}
