//! Missed webhooks: determines which changes of a Page were announced by notifications.
//!
//! Every read is compared with the previous one. A change of a field in between is *captured* if a
//! notification announced it. If Facebook has a webhook for the field and no notification arrived,
//! the change is an [`UnannouncedChange`]. It becomes *late* when its notification arrives, and
//! counts as *missed* after [`NOTIFICATION_GRACE`](crate::announcements::NOTIFICATION_GRACE).
//! Several changes between two reads count as one.
//!
//! Invariants: if the notification of a change arrives, the change does not stay unannounced, even
//! if deliveries are reordered, duplicated or hours late. No change is counted twice.

use crate::announcements::{
    CHANGE_RETENTION, FieldAnnouncements, MAX_UNANNOUNCED, UNDATED, UnannouncedChange,
};
use crate::field::FieldName;
use crate::page::{Change, Observation, Page, Register, Source};
use crate::polling::READ_STALENESS;
use crate::time::{FacebookTime, HostTime};
use crate::webhook_field::has_webhook;

/// The kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingKind {
    /// The field changed, and a notification had announced it.
    Captured,
    /// The notification of an earlier unannounced change has arrived.
    Late(UnannouncedChange),
    /// The field changed, and no notification had announced it.
    Unannounced(UnannouncedChange),
    /// The field was read for the first time, so there is no earlier read to compare it with.
    Initial,
    /// The field changed, and Facebook has no webhook for it.
    Unannounceable,
}

/// A result that a read or a notification gives about the announcements of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The field.
    pub field: FieldName,
    /// The kind of the finding.
    pub kind: FindingKind,
}

/// What is known about a field when a read was applied: its state before, and whether the read
/// changed it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadComparison {
    /// The stamp of the previous read; `None` if the field was never read.
    pub(crate) last_read: Option<FacebookTime>,
    /// The stamp of the value, if it came from a webhook.
    pub(crate) webhook_stamp: Option<FacebookTime>,
    /// Whether the read changed the value.
    pub(crate) changed: bool,
}

/// Classifies a read of `field` at `stamp`, and removes the open notifications that it answers.
fn classify_read(
    field: &FieldName,
    announcements: &mut FieldAnnouncements,
    before: ReadComparison,
    stamp: FacebookTime,
    now: HostTime,
) -> Option<FindingKind> {
    let is_late_enough_for = |sent_at: FacebookTime| sent_at.plus(READ_STALENESS) < stamp;
    let changed = std::mem::take(&mut announcements.changed_by_webhook) || before.changed;
    announcements
        .unannounced
        .retain(|change| change.found_at.plus(CHANGE_RETENTION) > now);
    if !changed
        && let Some(change) = announcements
            .unannounced
            .last_mut()
            .filter(|change| Some(change.unchanged_until) >= before.last_read)
    {
        change.unchanged_until = change.unchanged_until.max(stamp);
    }
    let announced = announcements
        .earliest_open
        .filter(|sent_at| *sent_at <= stamp);
    let kind = match (before.last_read, changed) {
        (None, _) => Some(FindingKind::Initial),
        (Some(_), true) if announced.is_some() => Some(FindingKind::Captured),
        (Some(previous_read), true) if has_webhook(field) => {
            let change = UnannouncedChange {
                previous_read_stamp: previous_read,
                found_stamp: stamp,
                unchanged_until: stamp,
                found_at: now,
            };
            announcements.unannounced.push(change);
            if announcements.unannounced.len() > MAX_UNANNOUNCED {
                announcements.unannounced.remove(0);
            }
            Some(FindingKind::Unannounced(change))
        }
        (Some(_), true) => Some(FindingKind::Unannounceable),
        // The field has not changed since the last read. If this read is late enough to return the
        // change that the notification announces, an earlier read has already found that change.
        (Some(_), false) => announced
            .filter(|sent_at| is_late_enough_for(*sent_at))
            .and_then(|sent_at| announcements.take_matching_change(sent_at))
            .map(FindingKind::Late),
    };
    let is_answered =
        changed || before.last_read.is_none() || announced.is_some_and(is_late_enough_for);
    if is_answered && announced.is_some() {
        if matches!(kind, Some(FindingKind::Captured)) {
            announcements.counted_until = Some(stamp);
        }
        // A notification that was sent after this read stays open.
        announcements.earliest_open = announcements.latest_open.filter(|sent_at| *sent_at > stamp);
        announcements.latest_open = announcements.earliest_open;
    }
    kind
}

impl Page {
    /// Applies a notification that `field` changed, sent at `sent_at`, and those of `observations`
    /// that are about this field. Returns the visible changes, and a finding if the notification
    /// belongs to an earlier unannounced change.
    pub fn apply_webhook(
        &mut self,
        field: &FieldName,
        sent_at: Option<FacebookTime>,
        observations: &[Observation],
    ) -> (Vec<Change>, Option<Finding>) {
        let last_read = self.last_read_stamp(field);
        let announcements = self.announcements.entry(field.clone()).or_default();
        // The last read answers a notification that was sent before it, with two exceptions: the
        // notification belongs to an unannounced change that a read found, or the last read was so
        // soon after the notification that it may have returned the old value.
        let matched = if let Some(sent_at) = sent_at {
            let matched = (last_read > Some(sent_at))
                .then(|| announcements.take_matching_change(sent_at))
                .flatten();
            let may_be_new = last_read.is_none_or(|last| sent_at.plus(READ_STALENESS) >= last);
            if matched.is_some() && may_be_new {
                announcements.counted_until = announcements.counted_until.max(Some(sent_at));
            } else if may_be_new && announcements.counted_until < Some(sent_at) {
                announcements.add_notification(sent_at);
            }
            matched
        } else {
            let matched = announcements.take_matching_change(UNDATED);
            if matched.is_none() {
                announcements.add_notification(UNDATED);
            }
            matched
        };
        let mut changes = Vec::new();
        for observation in observations
            .iter()
            .filter(|observation| observation.field == *field)
        {
            changes.extend(self.apply_observation(observation));
            let register = self.registers.get(field);
            if register.is_some_and(|register| register.source == Source::Webhook) {
                let announcements = self.announcements.entry(field.clone()).or_default();
                announcements.replaced_read_stamp = last_read;
                announcements.changed_by_webhook |= !changes.is_empty();
            }
        }
        self.drop_empty_announcements(field);
        let finding = matched.map(|change| Finding {
            field: field.clone(),
            kind: FindingKind::Late(change),
        });
        (changes, finding)
    }

    /// Compares a read of `field` at `stamp`, which has already been applied, with the state in
    /// `before`. `now` is on this host's clock. Returns `None` if there is nothing to count.
    pub(crate) fn compare_read(
        &mut self,
        field: &FieldName,
        before: ReadComparison,
        stamp: FacebookTime,
        now: HostTime,
    ) -> Option<Finding> {
        let is_from_read = |register: &Register| register.source == Source::Poll;
        let is_outdated = before.last_read.is_some_and(|last| stamp <= last) && !before.changed;
        if field.is_counter() || is_outdated || !self.registers.get(field).is_some_and(is_from_read)
        {
            return None;
        }
        let announcements = self.announcements.entry(field.clone()).or_default();
        announcements.replaced_read_stamp = None;
        announcements.counted_until = None;
        let may_be_stale = |sent_at: FacebookTime| sent_at.plus(READ_STALENESS) >= stamp;
        // A read that replaces the value of a webhook may have returned an older value. The next
        // read decides.
        let is_undecided = before.changed && before.webhook_stamp.is_some_and(may_be_stale);
        let kind = if is_undecided {
            None
        } else {
            classify_read(field, announcements, before, stamp, now)
        };
        self.drop_empty_announcements(field);
        kind.map(|kind| Finding {
            field: field.clone(),
            kind,
        })
    }

    /// Returns the stamp of the last read of `field`, or `None` if it was never read.
    pub(crate) fn last_read_stamp(&self, field: &FieldName) -> Option<FacebookTime> {
        let register = self.registers.get(field)?;
        match register.source {
            Source::Poll => Some(register.stamp),
            Source::Webhook => self.announcements.get(field)?.replaced_read_stamp,
        }
    }

    /// Removes the announcements of `field` if they equal the default.
    fn drop_empty_announcements(&mut self, field: &FieldName) {
        if self.announcements.get(field) == Some(&FieldAnnouncements::default()) {
            self.announcements.remove(field);
        }
    }

    /// Returns whether the webhooks of this Page seem to have stopped: a change was missed, and no
    /// notification has arrived that was sent after the read that found the change.
    pub fn is_silent(&self, now: HostTime) -> bool {
        let read_after = self.polling.read_after.unwrap_or_default();
        let unannounced = self
            .announcements
            .values()
            .flat_map(|announcements| &announcements.unannounced);
        let missed = unannounced.filter(|change| change.is_missed(now));
        missed
            .max_by_key(|change| change.found_stamp)
            .is_some_and(|change| read_after <= change.found_stamp.plus(READ_STALENESS))
    }
}

#[cfg(test)]
#[path = "missed_webhooks_tests.rs"]
mod tests;
