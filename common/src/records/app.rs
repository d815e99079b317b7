//! The one Facebook app of a store, and the app's own subscription. One store serves one app: page
//! and person ids are only comparable within one.

use model::due::Polling;
use model::time::Millis;
use serde::{Deserialize, Serialize};

use super::{get, put, write};
use crate::store::{Key, Kind, Outcome, Store, StoreError};

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
    pub seen: Option<Millis>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// Its record.
pub fn key() -> Key {
    Key::new(Kind::App, "app")
}

/// Claims the store for `app_id`. `Err`: it belongs to another app.
pub async fn claim(store: &dyn Store, app_id: &str) -> Result<Result<(), String>, StoreError> {
    loop {
        if let Some(held) = get::<App>(store, &key()).await? {
            let theirs = held.value.app_id;
            return Ok(if theirs == app_id {
                Ok(())
            } else {
                Err(theirs)
            });
        }
        let app = App {
            app_id: app_id.to_owned(),
            ..App::default()
        };
        if write(store, vec![put(key(), &app, Some(0), None)]).await? == Outcome::Applied {
            return Ok(Ok(()));
        }
    }
}
