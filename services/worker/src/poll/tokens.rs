//! Which token a Page is read with: one of a login that works, and that still lists the Page.

use common::custody::{CustodyError, Token};
use common::graph::error::GraphError;
use common::records::connection::{self, Connection, Status};
use common::records::{get, token};
use common::store::{Key, StoreError, Stored};
use model::id::{PageId, UserId};

use super::change::ask_for_tokens;
use crate::Parts;

/// So many more tokens than there are logins are tried in one attempt.
const MORE_TRIES: usize = 5;

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
    good: bool,
}

/// The tokens for a Page, the best first; at least one.
async fn candidates(
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
                found.push(Candidate {
                    good: is_good(&login, &held.value),
                    token,
                    user,
                    guard,
                    version: held.version,
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

/// The tokens an attempt has tried.
#[derive(Default)]
pub(super) struct TriedTokens(Vec<(UserId, u64)>);

impl TriedTokens {
    /// The best token that was not tried. Looked up anew each time: a login or a walk may have put
    /// another in the place of a refused one while Facebook answered. `Err`: there is none, any more.
    pub(super) async fn next(
        &self,
        parts: &Parts,
        page: &PageId,
    ) -> Result<Result<Candidate, NoToken>, StoreError> {
        let candidates = match candidates(parts, page).await? {
            Ok(candidates) if self.0.len() < candidates.len() + MORE_TRIES => candidates,
            // Somebody writes tokens faster than they are tried: the next attempt goes on.
            Ok(_) => return Ok(Err(NoToken::None)),
            Err(why) => return Ok(Err(why)),
        };
        let is_new = |candidate: &Candidate| {
            let is_it = |(user, version): &(UserId, u64)| {
                (user, *version) == (&candidate.user, candidate.version)
            };
            !self.0.iter().any(is_it)
        };
        let next = candidates.into_iter().find(is_new);
        Ok(next.ok_or(NoToken::None))
    }

    pub(super) fn add(&mut self, candidate: Candidate) {
        self.0.push((candidate.user, candidate.version));
    }
}

/// A token was refused: if it is dead and still the one we hold, a walk for a new one is asked for.
/// `true`: the login itself works as far as we know, and the walk may give it one.
pub(super) async fn ask_anew(
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
    if held.is_some_and(|held| held.version == candidate.version) {
        ask_for_tokens(parts, &candidate.user).await?;
    }
    let login = connection::find(&*parts.store, &candidate.user).await?;
    Ok(login.is_some_and(|login| login.value.status == Status::Active))
}

/// Whether a login that works, of somebody else than `user`, listed the Page in its last walk, with a
/// token for it.
pub(super) async fn is_listed_for_another(
    parts: &Parts,
    page: &PageId,
    user: &UserId,
) -> Result<bool, StoreError> {
    for other in covering(parts, page).await? {
        if other == *user {
            continue;
        }
        let Some(login) = connection::find(&*parts.store, &other).await? else {
            continue;
        };
        let held = get::<token::Held>(&*parts.store, &token::of_page(&other, page)).await?;
        let reads = |held: &token::Held| held.sealed.is_some() && is_good(&login.value, held);
        if held.is_some_and(|held| reads(&held.value)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The login works, and listed the Page in its last walk.
fn is_good(login: &Connection, held: &token::Held) -> bool {
    let last = login.last.as_ref().map(|last| last.begun);
    login.status == Status::Active && Some(held.obtained) >= last
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
