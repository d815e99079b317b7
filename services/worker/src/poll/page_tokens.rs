//! Selection of the token with which a Page is read or subscribed.
//!
//! Invariants: an attempt reads the Page with each token at most once. The tokens of active
//! connections whose last poll listed the Page come first. A person loses access to a Page only if a
//! complete poll of their active connection since their last login did not list the Page, and their
//! own token for it is refused or missing.

use common::graph::error::{ErrorKind, GraphError};
use common::records::connection::{self, Connection, Status};
use common::records::{load_decodable, put_write, token, token_inspection};
use common::sealing::{SealingError, Token};
use common::store::{RecordGuard, RecordWrite, StoreError, StoredPage, load_page};
use model::failure::Failure;
use model::id::{PageId, UserId};
use model::page::Page;
use model::time::HostTime;

use super::connection_update::{request_poll_for_tokens, was_polled_recently};
use crate::context::Context;

/// How many tokens may be tried in one attempt in addition to the present number of tokens. There
/// can be more, because tokens may be replaced during the attempt.
const MAX_EXTRA_ATTEMPTS: usize = 5;

/// The reason why no token can be used for a Page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoToken {
    /// No connection gives access to the Page, or every token of its connections was tried.
    #[error("no connection has a usable token for this Page")]
    NoAccess,
    /// A token is sealed to a key that this worker does not have.
    #[error("the token is sealed to a key that this worker does not have")]
    UnknownKey,
}

impl NoToken {
    /// Returns the failure of an attempt that ended at `at` for this reason.
    pub(crate) fn failure(self, at: HostTime) -> Failure {
        let remedy = match self {
            Self::NoAccess => {
                "ask a person who has a role on the Page to log in: `pagesync connection invite` prints the address"
            }
            Self::UnknownKey => "give the worker the private key: PAGESYNC_TOKEN_PRIVATE_KEYS",
        };
        Failure {
            at,
            reason: self.to_string(),
            remedy: remedy.to_owned(),
            reported: None,
        }
    }
}

/// The reason why there is no next token for a Page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
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
    /// The connection.
    connection: Connection,
    /// Whether the connection is active, and whether it listed the Page in its last poll.
    listing: Listing,
    /// Whether the last poll of the connection ended so recently that its own token is still valid.
    was_polled_recently: bool,
}

/// Whether the last complete poll of a connection listed a Page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Listing {
    /// The connection is active, and its last poll listed the Page.
    Listed,
    /// The connection is not active, or no poll was complete since the last login.
    Unknown,
    /// The connection is active, and its last poll did not list the Page.
    Unlisted,
}

impl Listing {
    fn of(connection: &Connection, stored: &token::StoredToken) -> Self {
        let last_poll = connection.last_poll.as_ref();
        let last_poll_began = last_poll.map(|last| last.began_at);
        // A list that could not be read may have the Page.
        let is_complete = last_poll.is_some_and(|last| last.problems.is_empty());
        if connection.status != Status::Active {
            Self::Unknown
        } else if Some(stored.obtained_at) >= last_poll_began {
            Self::Listed
        } else if last_poll_began < Some(connection.connected_at) || !is_complete {
            // The person has logged in again and may have selected the Page.
            Self::Unknown
        } else {
            Self::Unlisted
        }
    }
}

/// The access of a person that has ended: their connection did not list the Page, and their token is
/// refused or missing.
#[derive(Debug, Clone)]
pub(super) struct LostAccess {
    /// The person.
    pub(super) user: UserId,
    /// The epoch guard of their connection.
    pub(super) guard: RecordGuard,
    /// The version of the record of their token.
    version: u64,
}

impl LostAccess {
    /// Removes the person from the connections of a Page. Returns the write of the token's record,
    /// which fails if a poll has stored another token meanwhile.
    pub(super) fn remove_from(&self, id: &PageId, page: &mut Page) -> RecordWrite {
        page.connections.remove(&self.user);
        let key = token::page_key(&self.user, id);
        if page.connections.is_empty() {
            let former = token::StoredToken::OF_FORMER_ACCESS;
            put_write(key, &former, Some(self.version), None)
        } else {
            RecordWrite::Delete {
                key,
                expected: Some(self.version),
            }
        }
    }
}

impl Candidate {
    /// Returns the access that has ended if `error` refused the token and the connection did not list
    /// the Page. A token that is invalid together with the whole login, or until the person acts at
    /// facebook.com, ends no access.
    pub(super) fn lost_access(&self, error: &GraphError) -> Option<LostAccess> {
        let is_final = match error.kind {
            ErrorKind::NotFound | ErrorKind::Permission(_) => true,
            // A checkpoint of the account, an unconfirmed account, and two-factor authentication.
            ErrorKind::Token {
                subcode: Some(459 | 464 | 490),
            } => false,
            ErrorKind::Token { .. } => self.was_polled_recently,
            _ => false,
        };
        (self.listing == Listing::Unlisted && is_final).then(|| LostAccess {
            user: self.user.clone(),
            guard: self.guard.clone(),
            version: self.version,
        })
    }

    /// Returns whether the last poll of the connection did not list the Page.
    pub(super) fn is_unlisted(&self) -> bool {
        self.listing == Listing::Unlisted
    }
}

/// The tokens of a Page.
struct Tokens {
    /// The tokens that can be tried, the best first.
    candidates: Vec<Candidate>,
    /// The people without a token whose connection did not list the Page.
    lost: Vec<LostAccess>,
    /// The reason if no token is left to try.
    reason: NoToken,
}

/// Returns the tokens of a Page. Fails with [`NoToken`] if none can be tried and nobody has lost
/// access.
async fn load_tokens(context: &Context, page: &PageId) -> Result<Tokens, TokenError> {
    let store = &*context.store;
    let mut reason = NoToken::NoAccess;
    let mut is_unreadable = false;
    let (mut candidates, mut lost) = (Vec::new(), Vec::new());
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
        let listing = Listing::of(&connection, &token);
        let keys = context.keyring.keys();
        match keys.and_then(|keys| token::open_token(&key, &token, &keys)) {
            Ok(None) if listing == Listing::Unlisted => lost.push(LostAccess {
                user,
                guard,
                version: stored.version,
            }),
            Ok(None) => {}
            Ok(Some(opened)) => {
                candidates.push(Candidate {
                    listing,
                    was_polled_recently: was_polled_recently(&connection, context.clock.now()),
                    connection,
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
    candidates.sort_by_key(|candidate| candidate.listing);
    if candidates.is_empty() && is_unreadable {
        // A version that can decode the records may have a token: the Page is not without access.
        let reason = "a connection of the Page, or its token, cannot be decoded";
        Err(StoreError::Unexpected(reason.to_owned()).into())
    } else if candidates.is_empty() && lost.is_empty() {
        Err(reason.into())
    } else {
        Ok(Tokens {
            candidates,
            lost,
            reason,
        })
    }
}

/// The permission to send messages.
const MESSAGING: &str = "pages_messaging";

/// Returns the best token of a Page for a bot, with its connection: one of an active connection that, if
/// possible, may send messages. With a `client`, only the connections of this client count. Fails with
/// [`TokenError::NoToken`] if there is none.
pub(crate) async fn best_token(
    context: &Context,
    page: &PageId,
    client: Option<&str>,
) -> Result<(Token, Connection), TokenError> {
    let Tokens {
        candidates, reason, ..
    } = load_tokens(context, page).await?;
    let is_usable = |candidate: &Candidate| {
        let connection = &candidate.connection;
        let is_of_client = client.is_none() || connection.client.as_deref() == client;
        connection.status == Status::Active && is_of_client
    };
    let cannot_send = |candidate: &Candidate| {
        let mut permissions = candidate.connection.permissions.iter();
        !permissions.any(|permission| permission == MESSAGING)
    };
    // Of several with the same answer, this is the first one.
    let best = candidates
        .into_iter()
        .filter(is_usable)
        .min_by_key(cannot_send);
    let Candidate {
        token, connection, ..
    } = best.ok_or(reason)?;
    Ok((token, connection))
}

/// Returns the people who may have lost access to a Page although others still give access to it:
/// those without a token, and the tokens of the others, which must be tried.
pub(super) async fn unlisted_access(
    context: &Context,
    page: &PageId,
) -> Result<(Vec<LostAccess>, Vec<Candidate>), StoreError> {
    match load_tokens(context, page).await {
        Ok(Tokens {
            candidates, lost, ..
        }) => {
            let unlisted = candidates.into_iter().filter(Candidate::is_unlisted);
            Ok((lost, unlisted.collect()))
        }
        Err(TokenError::NoToken(_)) => Ok(Default::default()),
        Err(TokenError::Store(error)) => Err(error),
    }
}

/// Returns the people without a token for a Page whose connection did not list the Page.
pub(super) async fn people_without_token(
    context: &Context,
    page: &PageId,
) -> Result<Vec<LostAccess>, StoreError> {
    let (lost, _) = unlisted_access(context, page).await?;
    Ok(lost)
}

/// Returns whether an error concerns only the token or its person, so that another token may work.
pub(super) fn is_token_specific(error: &GraphError) -> bool {
    matches!(
        error.kind,
        ErrorKind::Token { .. } | ErrorKind::Permission(_) | ErrorKind::NotFound
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
        let Tokens {
            candidates, reason, ..
        } = load_tokens(context, page).await?;
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
        next.ok_or_else(|| reason.into())
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
    if !matches!(error.kind, ErrorKind::Token { .. }) {
        return Ok(false);
    }
    let key = token::page_key(&candidate.user, page);
    let stored = context.store.load_record(&key).await?;
    if stored.is_some_and(|stored| stored.version == candidate.version) {
        request_poll_for_tokens(context, &candidate.user).await?;
    }
    let connection = connection::find(&*context.store, &candidate.user).await?;
    let status = connection.map(|connection| connection.value.status);
    if status.is_some_and(|status| status != Status::NeedsLogin) {
        // The token of the person may be invalid, too, which Facebook does not report by itself.
        let now = context.clock.now();
        token_inspection::request(&*context.store, &candidate.user, now).await?;
    }
    Ok(status == Some(Status::Active))
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
