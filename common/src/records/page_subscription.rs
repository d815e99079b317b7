//! The Page subscriptions: the webhook fields for which the app is subscribed on each Page.

use std::collections::BTreeSet;

use model::id::PageId;
use model::polling::Polling;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use crate::store::{RecordKey, RecordKind};

/// How many times in a row a Page is resubscribed, each time within a week of the last
/// confirmation. After that the removal of the app counts as intended until a person logs in.
pub const MAX_RESUBSCRIPTIONS: u32 = 5;

/// The Page subscription of one Page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PageSubscription {
    /// The poll state, which determines when the Page subscription is checked next.
    pub polling: Polling,
    /// The webhook fields for which Facebook has the app subscribed on the Page.
    pub fields: BTreeSet<String>,
    /// The webhook fields that were subscribed before pagesync subscribed the Page, for example by a bot
    /// with the same app; `None` if Facebook was not asked yet.
    pub found: Option<BTreeSet<String>>,
    /// The requested webhook fields that Facebook refused.
    pub refused: BTreeSet<String>,
    /// When Facebook was last called for the Page subscription, on this host's clock; `None` if it
    /// was not called since the last login.
    pub attempted_at: Option<HostTime>,
    /// When a read last confirmed `fields`, on this host's clock.
    pub confirmed_at: Option<HostTime>,
    /// The problem of the Page subscription, or the reason why the last attempt failed; `None` if
    /// there is none.
    pub problem: Option<String>,
    /// How many times in a row the Page was resubscribed, each time within a week of the last
    /// confirmation.
    pub resubscriptions: u32,
    /// How many logins reset this record. The refusals and problems that an attempt finds are not
    /// recorded if a login came while it was under way.
    pub logins: u32,
}

impl PageSubscription {
    /// Returns whether a check must be requested. It must if Facebook reports that the app is no
    /// longer subscribed (`is_unsubscribed`), there is a subscription to restore, and fewer than
    /// [`MAX_RESUBSCRIPTIONS`] resubscriptions were made. It also must if none is requested yet and
    /// either Facebook was not called since the last login, or `requested` has a field that is
    /// neither subscribed nor refused.
    pub fn needs_check(&self, is_unsubscribed: bool, requested: &[String]) -> bool {
        let is_known = |name: &String| self.fields.contains(name) || self.refused.contains(name);
        let is_lost = is_unsubscribed
            && !self.fields.is_empty()
            && self.resubscriptions < MAX_RESUBSCRIPTIONS;
        let is_incomplete = self.attempted_at.is_none() || !requested.iter().all(is_known);
        is_lost || (is_incomplete && !self.polling.has_open_notification_or_request())
    }

    /// Resets the refusals of Facebook after a person has logged in, perhaps with more permissions.
    pub fn reset_after_login(&mut self) {
        self.refused.clear();
        self.attempted_at = None;
        self.resubscriptions = 0;
        self.logins = self.logins.wrapping_add(1);
        (self.polling.not_before, self.polling.failures) = (None, 0);
    }
}

/// Returns the key of the record of a Page subscription.
pub fn key(page: &PageId) -> RecordKey {
    RecordKey::new(RecordKind::PageSubscription, page.as_str())
}
