//! The app's subscription on each Page: what is wanted, what Facebook took.

use std::collections::BTreeSet;

use model::id::PageId;
use model::polling::Polling;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use crate::store::{RecordKey, RecordKind};

/// How often the app is put back on a Page that it was taken off, within weeks of each other. Whoever
/// takes it off so often means it; a login begins anew.
pub const MAX_RESUBSCRIPTIONS: u32 = 5;

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
    /// When Facebook was last asked, on our clock.
    pub attempted_at: Option<HostTime>,
    /// When it was last seen at Facebook, on our clock.
    pub confirmed_at: Option<HostTime>,
    /// Why the last attempt failed.
    pub problem: Option<String>,
    /// How often something that had been there was put back, each within a week of the last.
    pub resubscriptions: u32,
    /// How often somebody logged in since: what an attempt found out before that is no news after it.
    pub logins: u32,
}

impl Subscription {
    /// Whether the list of Pages gives a reason to look again: the Page is new, Facebook says that the
    /// app is off it and not everything was refused, or other fields are wanted than before.
    pub fn needs_check(&self, is_off: bool, wanted: &[&str]) -> bool {
        let is_known = |name: &&str| self.fields.contains(*name) || self.refused.contains(*name);
        let is_lost =
            is_off && !self.fields.is_empty() && self.resubscriptions < MAX_RESUBSCRIPTIONS;
        let unsettled = self.attempted_at.is_none() || !wanted.iter().all(is_known);
        is_lost || (unsettled && !self.polling.is_read_requested())
    }

    /// The person logged in again, perhaps with more permissions: what was refused may be taken now.
    pub fn reset_after_login(&mut self) {
        self.refused.clear();
        self.attempted_at = None;
        self.resubscriptions = 0;
        self.logins = self.logins.wrapping_add(1);
        (self.polling.not_before, self.polling.failures) = (None, 0);
    }
}

/// The record of a Page's subscription.
pub fn key(page: &PageId) -> RecordKey {
    RecordKey::new(RecordKind::Subscription, page.as_str())
}
