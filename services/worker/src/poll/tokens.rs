//! Which token a Page is read with: one of a login that works, and that still lists the Page.

use common::custody::{CustodyError, Token};
use common::graph::error::GraphError;
use common::records::{connection, get, token};
use common::store::{Key, StoreError, Stored};
use model::id::{PageId, UserId};

use super::change::ask_for_tokens;
use crate::Parts;

/// Why there is no token for a Page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoToken {
    /// No login covers it, or none gave a token for it.
    None,
    /// There is one, sealed with a key we do not have.
    NoKey,
}

impl NoToken {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::None => "no login gives a token for this Page",
            Self::NoKey => "the token is sealed with a key that is not here",
        }
    }
}

/// A token for a Page.
pub(super) struct Candidate {
    pub(super) token: Token,
    /// Whose login gave it.
    pub(super) user: UserId,
    /// For commits that are made with it. Read before the token is used.
    pub(super) guard: (Key, u64),
    /// The version of the record it was in.
    version: u64,
    /// The login works, and listed the Page in its last walk.
    good: bool,
}

/// The tokens for a Page, the best first; at least one.
pub(super) async fn candidates(
    parts: &Parts,
    page: &PageId,
) -> Result<Result<Vec<Candidate>, NoToken>, StoreError> {
    let store = &*parts.store;
    let mut why = NoToken::None;
    let mut found = Vec::new();
    for user in covering(parts, page).await? {
        let guard = connection::guard(store, &user).await?;
        let Some(login) = connection::find(store, &user).await? else {
            // Ended, and not taken off this Page yet.
            continue;
        };
        let login = login.value;
        let key = token::of_page(&user, page);
        let Some(held) = get::<token::Held>(store, &key).await? else {
            continue;
        };
        let keys = parts.keyring.keys();
        match keys.and_then(|keys| token::open(&key, &held.value, &keys)) {
            Ok(None) => {}
            Ok(Some(token)) => {
                let last = login.last.map(|last| last.begun);
                let good =
                    login.status == connection::Status::Active && Some(held.value.obtained) >= last;
                found.push(Candidate {
                    token,
                    user,
                    guard,
                    version: held.version,
                    good,
                });
            }
            Err(CustodyError::NoKey(_)) => why = NoToken::NoKey,
            Err(error) => tracing::error!(page.id = %page, error = %error, "a token does not open"),
        }
    }
    found.sort_by_key(|candidate| !candidate.good);
    Ok(if found.is_empty() {
        Err(why)
    } else {
        Ok(found)
    })
}

/// Whether the trouble is the token or its person: that of another may do.
pub(super) fn another_may_do(error: &GraphError) -> bool {
    matches!(
        error,
        GraphError::Token { .. } | GraphError::Permission(_) | GraphError::Missing
    )
}

/// A token was refused. One that is dead is asked for anew; `true`: that has happened already, while
/// Facebook answered.
pub(super) async fn refused(
    parts: &Parts,
    page: &PageId,
    candidate: &Candidate,
    error: &GraphError,
) -> Result<bool, StoreError> {
    if !matches!(error, GraphError::Token { .. }) {
        return Ok(false);
    }
    let key = token::of_page(&candidate.user, page);
    let held = parts.store.record(&key).await?;
    if held.is_some_and(|held| held.version != candidate.version) {
        return Ok(true);
    }
    ask_for_tokens(parts, &candidate.user).await?;
    Ok(false)
}

/// Whose logins cover a Page. One that cannot be read from the store does not say; the tokens do.
pub(super) async fn covering(parts: &Parts, id: &PageId) -> Result<Vec<UserId>, StoreError> {
    let held = parts.store.load(std::slice::from_ref(id)).await?.pop();
    match held.map(|held| held.value) {
        Some(Stored::Page(page)) => Ok(page.connections.into_iter().collect()),
        Some(Stored::Corrupt(_)) => {
            let mut found = Vec::new();
            for login in connection::list(&*parts.store).await? {
                let key = token::of_page(&login.user, id);
                if parts.store.record(&key).await?.is_some() {
                    found.push(login.user);
                }
            }
            Ok(found)
        }
        Some(Stored::Unknown) | None => Ok(Vec::new()),
    }
}
