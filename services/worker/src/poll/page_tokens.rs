//! Selection of the token with which a Page is read or subscribed.
//!
//! Invariant: an attempt tries each token at most once. The tokens of active connections whose last
//! poll listed the Page come first.

use common::graph::error::GraphError;
use common::records::connection::{self, Connection, Status};
use common::records::{load_decodable, load_if_decodable, token};
use common::sealing::{SealingError, Token};
use common::store::{RecordGuard, StoreError, StoredPage, load_page};
use model::id::{PageId, UserId};

use super::connection_update::request_poll_for_tokens;
use crate::context::Context;

/// How many tokens may be tried in one attempt in addition to the present number of tokens. There
/// can be more, because tokens may be replaced during the attempt.
const MAX_EXTRA_ATTEMPTS: usize = 5;

/// The reason why no token can be used for a Page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoToken {
    /// No connection gives access to the Page, or every token of its connections was tried.
    #[error("no connection has a usable token for this Page")]
    NoAccess,
    /// A token is sealed to a key that this worker does not have.
    #[error("the token is sealed to a key that this worker does not have")]
    UnknownKey,
}

/// The reason why there is no next token for a Page.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    /// No token can be used.
    #[error(transparent)]
    NoToken(#[from] NoToken),
    /// The store did not answer, or its answer cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A token that can be tried for a Page.
pub(super) struct Candidate {
    /// The token.
    pub(super) token: Token,
    /// The person whose connection has the token.
    pub(super) user: UserId,
    /// The epoch guard for commits made with the token. It is loaded before the token, so that the
    /// commits are stale if the connection ends meanwhile.
    pub(super) guard: RecordGuard,
    /// The version of the record that contains the token.
    version: u64,
    /// Whether the connection is active and listed the Page in its last poll.
    is_current: bool,
}

/// Returns the tokens of a Page, the best first. Fails with [`NoToken`] if there is none.
async fn candidates(context: &Context, page: &PageId) -> Result<Vec<Candidate>, TokenError> {
    let store = &*context.store;
    let mut reason = NoToken::NoAccess;
    let mut is_unreadable = false;
    let mut candidates = Vec::new();
    for user in users_with_access(context, page).await? {
        let guard = connection::epoch_guard(store, &user).await?;
        // If this build cannot decode one person's records, it uses the token of another person.
        let stored = load_decodable::<Connection>(store, &connection::key(&user)).await?;
        let Some(stored) = stored else {
            // The connection has ended, and its access is not removed from the Page yet.
            continue;
        };
        let Some(connection) = stored.value else {
            is_unreadable = true;
            continue;
        };
        let key = token::page_key(&user, page);
        let Some(stored) = load_decodable::<token::StoredToken>(store, &key).await? else {
            continue;
        };
        let Some(token) = stored.value else {
            is_unreadable = true;
            continue;
        };
        let keys = context.keyring.keys();
        match keys.and_then(|keys| token::open_token(&key, &token, &keys)) {
            Ok(None) => {}
            Ok(Some(opened)) => {
                candidates.push(Candidate {
                    is_current: is_current(&connection, &token),
                    token: opened,
                    user,
                    guard,
                    version: stored.version,
                });
            }
            Err(SealingError::UnknownKey(_)) => reason = NoToken::UnknownKey,
            Err(error) => {
                tracing::error!(page.id = %page, error = %error, "the token of a Page cannot be opened");
            }
        }
    }
    candidates.sort_by_key(|candidate| !candidate.is_current);
    if candidates.is_empty() && is_unreadable {
        // A version that can decode the records may have a token: the Page is not without access.
        let reason = "a connection of the Page, or its token, cannot be decoded";
        Err(StoreError::Unexpected(reason.to_owned()).into())
    } else if candidates.is_empty() {
        Err(reason.into())
    } else {
        Ok(candidates)
    }
}

/// Returns whether an error concerns only the token or its person, so that another token may work.
pub(super) fn is_token_specific(error: &GraphError) -> bool {
    matches!(
        error,
        GraphError::Token { .. } | GraphError::Permission(_) | GraphError::NotFound
    )
}

/// The tokens that an attempt has tried, each identified by its person and the version of its
/// record.
#[derive(Default)]
pub(super) struct TriedTokens(Vec<(UserId, u64)>);

impl TriedTokens {
    /// Returns the best token that was not tried. The tokens are loaded again for each call,
    /// because a login or a connection poll may have replaced a refused token. Fails with
    /// [`NoToken`] if every token was tried.
    pub(super) async fn next(
        &self,
        context: &Context,
        page: &PageId,
    ) -> Result<Candidate, TokenError> {
        let candidates = candidates(context, page).await?;
        if self.0.len() >= candidates.len() + MAX_EXTRA_ATTEMPTS {
            // Tokens are replaced faster than they are tried. The next attempt continues.
            return Err(NoToken::NoAccess.into());
        }
        let is_new = |candidate: &Candidate| {
            let is_same = |(user, version): &(UserId, u64)| {
                (user, *version) == (&candidate.user, candidate.version)
            };
            !self.0.iter().any(is_same)
        };
        let next = candidates.into_iter().find(is_new);
        next.ok_or_else(|| NoToken::NoAccess.into())
    }

    /// Records that a token was tried.
    pub(super) fn add(&mut self, candidate: Candidate) {
        self.0.push((candidate.user, candidate.version));
    }
}

/// Requests a connection poll for a new token if `candidate` was refused as invalid and is still
/// the stored token. Returns whether a poll may obtain a new token: `candidate` is invalid, and its
/// connection is active.
pub(super) async fn request_new_token(
    context: &Context,
    page: &PageId,
    candidate: &Candidate,
    error: &GraphError,
) -> Result<bool, StoreError> {
    if !matches!(error, GraphError::Token { .. }) {
        return Ok(false);
    }
    let key = token::page_key(&candidate.user, page);
    let stored = context.store.load_record(&key).await?;
    if stored.is_some_and(|stored| stored.version == candidate.version) {
        request_poll_for_tokens(context, &candidate.user).await?;
    }
    let connection = connection::find(&*context.store, &candidate.user).await?;
    Ok(connection.is_some_and(|connection| connection.value.status == Status::Active))
}

/// Returns whether a person other than `user` has an active connection whose last poll listed the
/// Page with a token.
pub(super) async fn is_listed_for_other_connection(
    context: &Context,
    page: &PageId,
    user: &UserId,
) -> Result<bool, StoreError> {
    for other in users_with_access(context, page).await? {
        if other == *user {
            continue;
        }
        let store = &*context.store;
        let Some(connection) =
            load_if_decodable::<Connection>(store, &connection::key(&other)).await?
        else {
            continue;
        };
        let stored =
            load_if_decodable::<token::StoredToken>(store, &token::page_key(&other, page)).await?;
        let is_usable = |stored: &token::StoredToken| {
            stored.sealed.is_some() && is_current(&connection.value, stored)
        };
        if stored.is_some_and(|stored| is_usable(&stored.value)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns whether a connection is active and its last poll listed the Page whose token is
/// `stored`.
fn is_current(connection: &Connection, stored: &token::StoredToken) -> bool {
    let last_poll_began = connection.last_poll.as_ref().map(|last| last.began_at);
    connection.status == Status::Active && Some(stored.obtained_at) >= last_poll_began
}

/// Returns the people whose connection gives access to a Page. For a Page that cannot be decoded,
/// these are the people whose connection has a token record for it.
pub(super) async fn users_with_access(
    context: &Context,
    id: &PageId,
) -> Result<Vec<UserId>, StoreError> {
    let store = &*context.store;
    match load_page(store, id).await?.value {
        StoredPage::Page(page) => Ok(page.connections.into_iter().collect()),
        StoredPage::Corrupt(_) => connection::users_with_token(store, id).await,
        StoredPage::Unknown => Ok(Vec::new()),
    }
}
