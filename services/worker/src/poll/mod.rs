//! Polls: reads of Facebook that were due, and what else is done with a token.
//!
//! Invariants: every poll ends in a commit that sets the next time; a job whose subject is not due
//! does nothing; nothing sleeps while it holds a delivery; a commit made with a token is guarded by
//! the epoch of the connection it came from.

pub(crate) mod app_subscription;
mod commits;
mod connection;
mod connection_poll;
mod connection_update;
mod error;
mod excluded_field;
mod login;
mod maintenance;
mod page;
mod page_subscription;
mod page_tokens;
mod poll_outcome;
mod rate_limits;
mod result_page;
mod token_maintenance;

use common::store::StoreError;
use model::id::Subject;
use model::job::Claim;

use crate::context::Context;
pub(crate) use page_subscription::count_findings;

/// Does what is due.
pub(crate) async fn poll(context: &Context, claim: &Claim) -> Result<(), StoreError> {
    context.metrics.polls.count(claim.subject.kind());
    let done = match &claim.subject {
        Subject::Page(id) => page::poll(context, id, claim.due_at).await,
        Subject::Connection(user) => connection::poll(context, user, claim).await,
        Subject::Grant(id) => login::poll(context, id).await,
        Subject::Subscription(page) => page_subscription::poll(context, page, claim.due_at).await,
        Subject::App => app_subscription::poll(context, claim.due_at).await,
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
