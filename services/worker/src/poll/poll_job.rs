//! One job of a connection poll, and the reasons why it ends early.
//!
//! Invariant: the epoch guard is loaded before the token is opened, so that nothing is written with the
//! token after the connection has ended.

use common::graph::error::GraphError;
use common::sealing::Token;
use common::store::{RecordGuard, StoreError};
use model::id::UserId;
use model::time::HostTime;

use super::error::PollError;
use crate::context::Context;

/// One job of a connection poll.
pub(super) struct ConnectionPoll<'a> {
    /// The context of the worker.
    pub(super) context: &'a Context,
    /// The person whose connection is polled.
    pub(super) user: &'a UserId,
    /// The token of the person.
    pub(super) token: Token,
    /// The epoch guard of the connection.
    pub(super) guard: RecordGuard,
    /// When the poll began, on this host's clock. An earlier job may have begun it.
    pub(super) began_at: HostTime,
    /// The later of the start of this job and the due time in its claim.
    pub(super) claimed_at: HostTime,
}

/// The reason why a job ends before the connection poll is complete.
pub(super) enum PollInterruption {
    /// Graph did not return what was requested.
    Graph(GraphError),
    /// The store did not answer, or its answer cannot be used.
    Store(StoreError),
    /// The job reached the time limit of a job, or the process is stopping. The next job continues.
    TimeIsUp,
    /// The connection has ended, or another job has written it.
    Superseded,
}

impl From<PollError> for PollInterruption {
    fn from(error: PollError) -> Self {
        match error {
            PollError::Graph(error) => Self::Graph(error),
            PollError::Store(error) => Self::Store(error),
        }
    }
}

impl From<GraphError> for PollInterruption {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl From<StoreError> for PollInterruption {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
