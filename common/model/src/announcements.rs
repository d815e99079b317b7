//! The notifications of a field that no read has answered yet, and the changes that no notification
//! announced.
//!
//! Invariant: a field whose [`FieldAnnouncements`] equals the default has no entry in
//! [`Announcements`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::field::FieldName;
use crate::time::{FacebookTime, HostTime};

/// How long the notification of a change is awaited after a read has found the change. After that
/// the change counts as missed until its notification arrives.
pub const NOTIFICATION_GRACE: Duration = Duration::from_secs(3600);
/// How long a Page stores an unannounced change. Facebook retries a delivery for 36 hours, so a
/// notification can still arrive.
pub(crate) const CHANGE_RETENTION: Duration = Duration::from_secs(48 * 3600);
/// The stamp of a notification that has no `entry.time`.
pub(crate) const UNDATED: FacebookTime = FacebookTime(0);
/// How many unannounced changes of one field a Page stores.
pub(crate) const MAX_UNANNOUNCED: usize = 16;

/// A change that a read found and that no notification had announced. The stamps are on Facebook's
/// clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnannouncedChange {
    /// The stamp of the previous read, which did not return the change yet.
    pub previous_read_stamp: FacebookTime,
    /// The stamp of the read that found the change.
    pub found_stamp: FacebookTime,
    /// The stamp of the last read up to which the field did not change again. A notification that
    /// was sent up to this time can belong to the change, even if it was sent after `found_stamp`.
    pub unchanged_until: FacebookTime,
    /// When the change was found, on this host's clock. [`NOTIFICATION_GRACE`] begins then.
    pub found_at: HostTime,
}

impl UnannouncedChange {
    /// Returns whether [`NOTIFICATION_GRACE`] is over, so that the change counts as missed.
    pub fn is_missed(&self, now: HostTime) -> bool {
        now >= self.found_at.plus(NOTIFICATION_GRACE)
    }
}

/// The open notifications and the unannounced changes of one field. The stamps are on Facebook's
/// clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FieldAnnouncements {
    /// The earliest `entry.time` of the open notifications; 0 if one of them has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earliest_open: Option<FacebookTime>,
    /// The latest `entry.time` of the open notifications; 0 if none of them has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_open: Option<FacebookTime>,
    /// Notifications with this time or an earlier one belong to a change that is already counted
    /// and announce no other change. The next read clears it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted_until: Option<FacebookTime>,
    /// Whether a webhook has changed the value since the last read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub changed_by_webhook: bool,
    /// The stamp of the last read, if a webhook has replaced the value that it returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_read_stamp: Option<FacebookTime>,
    /// The changes that no notification has announced, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unannounced: Vec<UnannouncedChange>,
}

/// The announcements of each field of a Page. A field whose announcements equal the default has no
/// entry.
pub type Announcements = BTreeMap<FieldName, FieldAnnouncements>;

impl FieldAnnouncements {
    /// Adds an open notification that was sent at `sent_at`.
    pub(crate) fn add_notification(&mut self, sent_at: FacebookTime) {
        self.earliest_open = Some(
            self.earliest_open
                .map_or(sent_at, |first| first.min(sent_at)),
        );
        self.latest_open = self.latest_open.max(Some(sent_at));
    }

    /// Removes and returns the newest unannounced change that a notification sent at `sent_at` can
    /// belong to. A notification with the stamp [`UNDATED`] can belong to any of them. Returns
    /// `None` if there is no such change.
    pub(crate) fn take_matching_change(
        &mut self,
        sent_at: FacebookTime,
    ) -> Option<UnannouncedChange> {
        let matches = |change: &UnannouncedChange| {
            change.previous_read_stamp <= sent_at && sent_at <= change.unchanged_until
        };
        let at = self
            .unannounced
            .iter()
            .rposition(|change| matches(change) || sent_at == UNDATED)?;
        Some(self.unannounced.remove(at))
    }
}
