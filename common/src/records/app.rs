//! The one Facebook app of a store, and the app's own subscription. One store serves one app: page
//! and person ids are only comparable within one.

use model::polling::Polling;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::{load_record, put_write, write_records};
use crate::store::{CommitOutcome, RecordKey, RecordKind, Store, StoreError};

/// The app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct App {
    /// Its id at Facebook.
    pub app_id: String,
    /// When its subscription is looked at next.
    pub polling: Polling,
    /// The callback Facebook has.
    pub callback: Option<String>,
    /// When it was last seen at Facebook, on our clock.
    pub confirmed_at: Option<HostTime>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// Its record.
pub fn key() -> RecordKey {
    RecordKey::new(RecordKind::App, "app")
}

/// Why the store cannot be claimed for an app.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It belongs to the app with this id.
    #[error(
        "this store belongs to the Facebook app {0}, not to FACEBOOK_APP_ID: one store serves one app"
    )]
    OtherApp(String),
    /// The store did not answer, or its answer cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Claims the store for `app_id`. Claiming it again for the same app has no effect.
pub async fn claim_store(store: &dyn Store, app_id: &str) -> Result<(), ClaimError> {
    loop {
        if let Some(stored) = load_record::<App>(store, &key()).await? {
            let owner = stored.value.app_id;
            return if owner == app_id {
                Ok(())
            } else {
                Err(ClaimError::OtherApp(owner))
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
