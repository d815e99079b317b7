//! Polls: everything that is done with a token when a subject is due.
//!
//! Invariants: a poll whose subject is not due makes no call. A poll ends in a commit that sets the
//! next due time of its subject; if it cannot, the lease of its claim makes the subject due again.
//! No poll sleeps while it holds a delivery. A commit that writes a Page, a token or a connection
//! with data from Facebook is guarded by the epoch of the connection whose token was used.

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
mod page_lists;
mod page_read;
mod page_subscription;
pub(crate) mod page_tokens;
mod poll_job;
mod poll_outcome;
mod rate_limits;
mod result_page;
mod token_inspection;
mod unusable;
mod user_token;

use common::store::StoreError;
use model::id::Subject;
use model::job::Claim;

use crate::context::Context;
pub(crate) use page_subscription::count_findings;

/// Executes a claimed poll. Fails if the store does not answer. An answer of the store that cannot
/// be used is logged instead, because a redelivery would get the same answer.
pub(crate) async fn poll(context: &Context, claim: &Claim) -> Result<(), StoreError> {
    context.metrics.polls.count(claim.subject.kind());
    let result = match &claim.subject {
        Subject::Page(id) => page::poll(context, id, claim).await,
        Subject::Connection(user) => connection::poll(context, user, claim).await,
        Subject::Token(user) => token_inspection::poll(context, user, claim).await,
        Subject::Login(id) => login::poll(context, id).await,
        Subject::PageSubscription(page) => page_subscription::poll(context, page, claim).await,
        Subject::App => app_subscription::poll(context, claim.due_at).await,
    };
    match result {
        Err(StoreError::Unexpected(reason)) => {
            // The lease of the claim makes the subject due again.
            tracing::error!(subject = %claim.subject, reason, "a poll ended because an answer of the store cannot be used");
            Ok(())
        }
        result => result,
    }
}
