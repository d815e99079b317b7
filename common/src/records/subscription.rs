//! The app's subscription on each Page: what is wanted, what Facebook took.

use std::collections::BTreeSet;

use model::due::Polling;
use model::id::PageId;
use model::time::Millis;
use serde::{Deserialize, Serialize};

use crate::store::{Key, Kind};

/// The subscription of one Page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subscription {
    /// When it is looked at next.
    pub polling: Polling,
    /// The fields Facebook has for this app there.
    pub fields: BTreeSet<String>,
    /// Wanted fields that Facebook refused.
    pub refused: BTreeSet<String>,
    /// When it was last seen at Facebook, on our clock.
    pub seen: Option<Millis>,
    /// Why the last attempt failed.
    pub problem: Option<String>,
}

/// The record of a Page's subscription.
pub fn key(page: &PageId) -> Key {
    Key::new(Kind::Subscription, page.as_str())
}
