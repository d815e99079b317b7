//! The Facebook app of a store, and the app subscription.
//!
//! Invariant: a store serves one app, because ids of Pages and people can only be compared within
//! one app.

use model::polling::Polling;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::{load_record, put_write, write_records};
use crate::store::{CommitOutcome, RecordKey, RecordKind, Store, StoreError};

/// The app and its app subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct App {
    /// The id of the app at Facebook.
    pub app_id: String,
    /// The poll state, which determines when the app subscription is checked next.
    pub polling: Polling,
    /// The address to which Facebook posts the webhooks of the app.
    pub callback: Option<String>,
    /// When the app subscription was last confirmed by a read, on this host's clock.
    pub confirmed_at: Option<HostTime>,
    /// The problem of the app subscription; `None` if there is none.
    pub problem: Option<String>,
}

/// Returns the key of the app's record.
pub fn key() -> RecordKey {
    RecordKey::new(RecordKind::App, "app")
}

/// The reason why the store cannot be claimed for an app.
#[derive(Debug, thiserror::Error)]
pub enum StoreBindingError {
    /// The store belongs to the app with this id.
    #[error(
        "this store belongs to the Facebook app {0}, not to FACEBOOK_APP_ID: one store serves one app"
    )]
    OtherApp(String),
    /// The record that names the app cannot be decoded.
    #[error(
        "the store does not say which Facebook app it belongs to in a form that this build understands ({0}): start the version of pagesync that wrote it, or a newer one"
    )]
    Unreadable(String),
    /// The store did not answer.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for StoreBindingError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unexpected(reason) => Self::Unreadable(reason),
            error @ StoreError::Unavailable(_) => Self::Store(error),
        }
    }
}

/// The part of the record that names the app. It can be decoded even if a newer version of pagesync
/// wrote the record.
#[derive(Deserialize)]
struct Owner {
    app_id: String,
}

/// Claims the store for the app `app_id`. Claiming it again for the same app has no
/// effect.
pub async fn bind_store_to_app(store: &dyn Store, app_id: &str) -> Result<(), StoreBindingError> {
    loop {
        if let Some(stored) = load_record::<Owner>(store, &key()).await? {
            let owner = stored.value.app_id;
            return if owner == app_id {
                Ok(())
            } else {
                Err(StoreBindingError::OtherApp(owner))
            };
        }
        let app = App {
            app_id: app_id.to_owned(),
            ..App::default()
        };
        if write_records(store, vec![put_write(key(), &app, Some(0), None)]).await?
            == CommitOutcome::Applied
        {
            return Ok(());
        }
    }
}
