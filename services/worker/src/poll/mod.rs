//! Polls: reads of Facebook that were due, and what else is done with a token.
//!
//! Invariants: every poll ends in a commit that sets the next time; a job whose subject is not due
//! does nothing; nothing sleeps while it holds a delivery; a commit made with a token is guarded by
//! the epoch of the connection it came from.

pub(crate) mod app;
mod care;
mod change;
mod commits;
mod connection;
mod fields;
mod grant;
mod limits;
mod listing;
mod pace;
mod page;
mod renewal;
mod subscription;
mod tokens;
mod walk;
mod walked;

use common::store::StoreError;
use common::telemetry::Metrics;
use model::id::Subject;
use model::job::Claim;

use crate::Parts;
pub(crate) use subscription::count_drift;

/// Does what is due.
pub(crate) async fn poll(parts: &Parts, claim: &Claim) -> Result<(), StoreError> {
    Metrics::count(&parts.metrics.polls, claim.subject.kind());
    let done = match &claim.subject {
        Subject::Page(id) => page::poll(parts, id, claim.due).await,
        Subject::Connection(user) => connection::poll(parts, user, claim).await,
        Subject::Grant(id) => grant::poll(parts, id).await,
        Subject::Subscription(page) => subscription::poll(parts, page, claim.due).await,
        Subject::App => app::poll(parts, claim.due).await,
    };
    match done {
        Err(StoreError::Unexpected(what)) => {
            // Nothing that comes again would be different: the lease brings it back.
            tracing::error!(subject = %claim.subject, what, "a poll met a record it cannot read");
            Ok(())
        }
        done => done,
    }
}
