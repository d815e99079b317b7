//! Which token a Page is read with: one of a login that works, and that still lists the Page.

use common::graph::error::GraphError;
use common::records::connection::{self, Connection, Status};
use common::records::{load_record, token};
use common::sealing::{SealingError, Token};
use common::store::{RecordKey, StoreError, StoredPage, load_page};
use model::id::{PageId, UserId};

use super::connection_update::request_poll_for_tokens;
use crate::context::Context;

/// So many more tokens than there are logins are tried in one attempt.
const MAX_EXTRA_ATTEMPTS: usize = 5;

/// Why there is no token for a Page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoToken {
    /// No login covers it, or none gave a token for it.
    #[error("no login gives a token for this Page")]
    NoAccess,
    /// There is one, sealed with a key we do not have.
    #[error("the token is sealed with a key that is not here")]
    UnknownKey,
}

/// Why the next token for a Page cannot be returned.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    /// There is none.
    #[error(transparent)]
    NoToken(#[from] NoToken),
    /// The store did not answer, or its answer cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A token for a Page.
pub(super) struct Candidate {
    pub(super) token: Token,
    /// Whose login gave it.
    pub(super) user: UserId,
    /// For commits that are made with it. Read before the token is used.
    pub(super) guard: (RecordKey, u64),
    /// The version of the record it was in.
    version: u64,
    is_current: bool,
}

/// The tokens for a Page, the best first; at least one.
async fn candidates(context: &Context, page: &PageId) -> Result<Vec<Candidate>, TokenError> {
    let store = &*context.store;
    let mut why = NoToken::NoAccess;
    let mut found = Vec::new();
    for user in users_with_access(context, page).await? {
        let guard = connection::epoch_guard(store, &user).await?;
        let Some(login) = connection::find(store, &user).await? else {
            // Ended, and not taken off this Page yet.
            continue;
        };
        let login = login.value;
        let key = token::page_key(&user, page);
        let Some(stored) = load_record::<token::StoredToken>(store, &key).await? else {
            continue;
        };
        let keys = context.keyring.keys();
        match keys.and_then(|keys| token::open_token(&key, &stored.value, &keys)) {
            Ok(None) => {}
            Ok(Some(token)) => {
                found.push(Candidate {
                    is_current: is_current(&login, &stored.value),
                    token,
                    user,
                    guard,
                    version: stored.version,
                });
            }
            Err(SealingError::UnknownKey(_)) => why = NoToken::UnknownKey,
            Err(error) => tracing::error!(page.id = %page, error = %error, "a token does not open"),
        }
    }
    found.sort_by_key(|candidate| !candidate.is_current);
    if found.is_empty() {
        Err(why.into())
    } else {
        Ok(found)
    }
}

/// Whether the trouble is the token or its person: that of another may do.
pub(super) fn is_token_specific(error: &GraphError) -> bool {
    matches!(
        error,
        GraphError::Token { .. } | GraphError::Permission(_) | GraphError::NotFound
    )
}

/// The tokens an attempt has tried.
#[derive(Default)]
pub(super) struct TriedTokens(Vec<(UserId, u64)>);

impl TriedTokens {
    /// The best token that was not tried. Looked up anew each time: a login or a walk may have put
    /// another in the place of a refused one while Facebook answered. `Err`: there is none, any more.
    pub(super) async fn next(
        &self,
        context: &Context,
        page: &PageId,
    ) -> Result<Candidate, TokenError> {
        let candidates = candidates(context, page).await?;
        if self.0.len() >= candidates.len() + MAX_EXTRA_ATTEMPTS {
            // Tokens are written faster than they are tried. The next attempt continues.
            return Err(NoToken::NoAccess.into());
        }
        let is_new = |candidate: &Candidate| {
            let is_it = |(user, version): &(UserId, u64)| {
                (user, *version) == (&candidate.user, candidate.version)
            };
            !self.0.iter().any(is_it)
        };
        let next = candidates.into_iter().find(is_new);
        next.ok_or_else(|| NoToken::NoAccess.into())
    }

    pub(super) fn add(&mut self, candidate: Candidate) {
        self.0.push((candidate.user, candidate.version));
    }
}

/// A token was refused: if it is dead and still the one we hold, a walk for a new one is asked for.
/// `true`: the login itself works as far as we know, and the walk may give it one.
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
    let login = connection::find(&*context.store, &candidate.user).await?;
    Ok(login.is_some_and(|login| login.value.status == Status::Active))
}

/// Whether a login that works, of somebody else than `user`, listed the Page in its last walk, with a
/// token for it.
pub(super) async fn is_listed_for_other_connection(
    context: &Context,
    page: &PageId,
    user: &UserId,
) -> Result<bool, StoreError> {
    for other in users_with_access(context, page).await? {
        if other == *user {
            continue;
        }
        let Some(login) = connection::find(&*context.store, &other).await? else {
            continue;
        };
        let stored =
            load_record::<token::StoredToken>(&*context.store, &token::page_key(&other, page))
                .await?;
        let reads = |stored: &token::StoredToken| {
            stored.sealed.is_some() && is_current(&login.value, stored)
        };
        if stored.is_some_and(|stored| reads(&stored.value)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The login works, and listed the Page in its last walk.
fn is_current(login: &Connection, stored: &token::StoredToken) -> bool {
    let last = login.last_poll.as_ref().map(|last| last.began_at);
    login.status == Status::Active && Some(stored.obtained_at) >= last
}

/// Whose logins cover a Page. One that cannot be read from the store does not say; the tokens do.
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
