//! The error of a step of a poll.

use common::graph::error::GraphError;
use common::store::StoreError;

/// The error of a step that calls Graph and uses the store. The two errors are handled differently:
/// an error of Graph is recorded and retried later, an error of the store ends the job.
#[derive(Debug, thiserror::Error)]
pub(super) enum PollError {
    /// Graph did not return what was requested.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The store did not answer, or its answer cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PollError {
    /// Returns the error of Graph. An error of the store is returned as `Err`.
    pub(super) fn into_graph(self) -> Result<GraphError, StoreError> {
        match self {
            Self::Graph(error) => Ok(error),
            Self::Store(error) => Err(error),
        }
    }
}
