//! The token of a person, opened.
//!
//! Invariant: a token that cannot be opened names the status that its connection gets.

use common::records::connection::Status;
use common::records::{load_record, token};
use common::sealing::{SealingError, Token};
use common::store::StoreError;
use model::id::UserId;

use super::unusable::UnusableConnection;
use crate::context::Context;

/// The reason why the token of a person cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum UserTokenError {
    /// The connection cannot be used until a person acts.
    #[error(transparent)]
    Unusable(#[from] UnusableConnection),
    /// The store did not answer, or its answer cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Returns the token of a person. Fails with [`UnusableConnection`] if there is none that can be
/// opened.
pub(super) async fn open_user_token(
    context: &Context,
    user: &UserId,
) -> Result<Token, UserTokenError> {
    let unusable = UnusableConnection::new;
    let missing = || {
        unusable(
            Status::NeedsLogin,
            "no token is stored: log in again".to_owned(),
        )
    };
    let key = token::user_key(user);
    let stored = load_record::<token::StoredToken>(&*context.store, &key).await?;
    let stored = stored.ok_or_else(missing)?;
    let keys = context.keyring.keys();
    let opened = keys.and_then(|keys| token::open_token(&key, &stored.value, &keys));
    match opened {
        Ok(token) => Ok(token.ok_or_else(missing)?),
        // The key file may be readable again soon.
        Err(error @ SealingError::File { .. }) => {
            Err(StoreError::Unexpected(error.to_string()).into())
        }
        Err(error @ SealingError::UnknownKey(_)) => {
            Err(unusable(Status::NeedsKey, error.to_string()).into())
        }
        Err(error) => Err(unusable(Status::NeedsLogin, error.to_string()).into()),
    }
}
