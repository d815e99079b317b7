//! Notifications of a field that no read has answered yet, and changes that no notification announced.
//!
//! Invariant: a field for which nothing is open has no entry in [`Drift`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::field::FieldName;
use crate::time::{FacebookTime, HostTime};

/// How long a delivery may take before its change counts as missed.
pub const NOTIFICATION_GRACE: Duration = Duration::from_secs(3600);
/// How long the Page itself remembers a gap: Facebook repeats deliveries for 36 hours.
pub(crate) const CHANGE_RETENTION: Duration = Duration::from_secs(48 * 3600);
/// Stands for the time of a notice that had none.
pub(crate) const UNDATED: FacebookTime = FacebookTime(0);
/// Gaps of one field that the Page remembers.
pub(crate) const MAX_UNANNOUNCED: usize = 16;

/// A change that a read found and nothing had announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnannouncedChange {
    /// Stamp of the read before: the change is not older.
    pub previous_read: FacebookTime,
    /// Stamp of the read that found it.
    pub found_by_read: FacebookTime,
    /// Stamp of the last read up to which nothing else changed: a notice may have been sent after the
    /// read that found its change.
    pub unchanged_until: FacebookTime,
    /// When it was found, on our clock; from here the grace runs.
    pub found_at: HostTime,
}

impl UnannouncedChange {
    /// Whether its notice would be too late by now.
    pub fn is_missed(&self, now: HostTime) -> bool {
        now >= self.found_at.plus(NOTIFICATION_GRACE)
    }
}

/// What is open between notices and reads of one field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FieldAnnouncements {
    /// The first `entry.time` that no read has answered yet; 0 if the notice had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_open: Option<FacebookTime>,
    /// The latest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_open: Option<FacebookTime>,
    /// Notices sent up to then are used up: by the last read, if it captured a change, or by a gap of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumed_until: Option<FacebookTime>,
    /// A webhook changed the value since the last read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub changed_by_webhook: bool,
    /// Stamp of the last read, where a webhook's value has taken the place of the read one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_read: Option<FacebookTime>,
    /// Changes found and not announced, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unannounced: Vec<UnannouncedChange>,
}

/// What is open of each field. A field with nothing open is not in it.
pub type Announcements = BTreeMap<FieldName, FieldAnnouncements>;

impl FieldAnnouncements {
    pub(crate) fn add_notification(&mut self, sent: FacebookTime) {
        self.first_open = Some(self.first_open.map_or(sent, |first| first.min(sent)));
        self.latest_open = self.latest_open.max(Some(sent));
    }

    /// Takes the gap that a notice sent at `sent` can have announced; 0: the newest.
    pub(crate) fn take_matching_change(&mut self, sent: FacebookTime) -> Option<UnannouncedChange> {
        let announced =
            |gap: &UnannouncedChange| gap.previous_read <= sent && sent <= gap.unchanged_until;
        let at = self
            .unannounced
            .iter()
            .rposition(|gap| announced(gap) || sent == UNDATED)?;
        Some(self.unannounced.remove(at))
    }
}
