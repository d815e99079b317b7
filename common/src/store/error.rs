//! The reasons why an operation of a store failed.

/// The reason why an operation of the store failed. The variant says whether waiting can help.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, is read-only, is full, or did not answer in time. The operation
    /// may have been executed. Repeating it later is safe, and can succeed.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The store contains data that this build cannot interpret, for example because a newer
    /// version of pagesync wrote it. Repeating the operation fails again, and only the subject of
    /// the data is affected.
    #[error("the store returned data that this build does not understand: {0}")]
    Unexpected(String),
}

impl StoreError {
    /// Returns whether the store itself does not work, so that every operation may fail until it
    /// recovers.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
