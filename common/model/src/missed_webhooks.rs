//! The drift meter: which changes of a Page its webhooks announced, and which only a read found.
//!
//! A read compares with the read before it. What changed in between and was announced is *captured*;
//! what changed and could have been announced, and was not, is a [`Gap`]. A notice that turns up later
//! makes the gap *late*; after [`GRACE`] it counts as *missed*. Several changes between two reads are
//! one. Invariant: disorder, duplicates and deliveries that come hours late make no gap that stays;
//! and what a notice announced is never counted twice.

use crate::announcements::{
    CHANGE_RETENTION, FieldAnnouncements, MAX_UNANNOUNCED, UNDATED, UnannouncedChange,
};
use crate::field::FieldName;
use crate::page::{Change, Observation, Page, Source};
use crate::polling::READ_STALENESS;
use crate::time::{FacebookTime, HostTime};
use crate::webhook_field::has_webhook;

/// What the meter found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingKind {
    /// Announced and changed.
    Captured,
    /// A gap was announced after all.
    Late(UnannouncedChange),
    /// A new gap.
    Unannounced(UnannouncedChange),
    /// The field's first read: there is nothing to compare with.
    Initial,
    /// It changed, and Facebook has no webhook that could have said so.
    Unannounceable,
}

/// What the meter found of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which field.
    pub field: FieldName,
    /// What.
    pub kind: FindingKind,
}

impl Page {
    /// Takes a notice of `field` into account, sent at `sent` on Facebook's clock, with what it carries of
    /// that field among `seen`. Answers with the changes a reader sees and with what the meter found.
    pub fn apply_webhook(
        &mut self,
        field: &FieldName,
        sent: Option<FacebookTime>,
        seen: &[Observation],
    ) -> (Vec<Change>, Option<Finding>) {
        let last = self.last_read_stamp(field);
        let open = self.announcements.entry(field.clone()).or_default();
        // What was sent before the last read is answered by it, unless a read found a gap for it, or it
        // may have been too early to see the change.
        let settled = if let Some(sent) = sent {
            let gap = (last > Some(sent))
                .then(|| open.take_matching_change(sent))
                .flatten();
            let may_be_new = last.is_none_or(|last| sent.plus(READ_STALENESS) >= last);
            if gap.is_some() && may_be_new {
                open.consumed_until = open.consumed_until.max(Some(sent));
            } else if may_be_new && open.consumed_until < Some(sent) {
                open.add_notification(sent);
            }
            gap
        } else {
            let gap = open.take_matching_change(UNDATED);
            if gap.is_none() {
                open.add_notification(UNDATED);
            }
            gap
        };
        let mut changes = Vec::new();
        for seen in seen.iter().filter(|seen| seen.field == *field) {
            changes.extend(self.apply_observation(seen));
            let register = self.registers.get(field);
            if register.is_some_and(|register| register.source == Source::Webhook) {
                let open = self.announcements.entry(field.clone()).or_default();
                open.last_read = last;
                open.changed_by_webhook |= !changes.is_empty();
            }
        }
        self.drop_empty_announcements(field);
        let late = settled.map(|gap| Finding {
            field: field.clone(),
            kind: FindingKind::Late(gap),
        });
        (changes, late)
    }

    /// What a read of `field` at `stamp` means for the meter. Before it, `last` was [`Self::last_read`],
    /// and `webhook` the stamp of the value if a webhook had said it; `changed`: whether the read changed
    /// the value that stood; `now` is our clock.
    pub(crate) fn compare_read(
        &mut self,
        field: &FieldName,
        (last, webhook, changed): (Option<FacebookTime>, Option<FacebookTime>, bool),
        stamp: FacebookTime,
        now: HostTime,
    ) -> Option<Finding> {
        let read_won = |register: &crate::page::Register| register.source == Source::Poll;
        let is_old = last.is_some_and(|last| stamp <= last) && !changed;
        if field.is_counter() || is_old || !self.registers.get(field).is_some_and(read_won) {
            return None;
        }
        let open = self.announcements.entry(field.clone()).or_default();
        open.last_read = None;
        open.consumed_until = None;
        let late_enough = |sent: FacebookTime| sent.plus(READ_STALENESS) < stamp;
        if changed && webhook.is_some_and(|sent| !late_enough(sent)) {
            // It takes a webhook's value back, and may be older than that: the next read tells.
            return None;
        }
        let changed = std::mem::take(&mut open.changed_by_webhook) || changed;
        open.unannounced
            .retain(|gap| gap.found_at.plus(CHANGE_RETENTION) > now);
        if !changed
            && let Some(gap) = open
                .unannounced
                .last_mut()
                .filter(|gap| Some(gap.unchanged_until) >= last)
        {
            gap.unchanged_until = gap.unchanged_until.max(stamp);
        }
        let announced = open.first_open.filter(|sent| *sent <= stamp);
        let event = match (last, changed) {
            (None, _) => Some(FindingKind::Initial),
            (Some(_), true) if announced.is_some() => Some(FindingKind::Captured),
            (Some(since), true) if has_webhook(field) => {
                let gap = UnannouncedChange {
                    previous_read: since,
                    found_by_read: stamp,
                    unchanged_until: stamp,
                    found_at: now,
                };
                open.unannounced.push(gap);
                if open.unannounced.len() > MAX_UNANNOUNCED {
                    open.unannounced.remove(0);
                }
                Some(FindingKind::Unannounced(gap))
            }
            (Some(_), true) => Some(FindingKind::Unannounceable),
            // It announced nothing new. Late enough not to be a stale answer, this means that the notice
            // was sent after a read had already found the change.
            (Some(_), false) => announced
                .filter(|sent| late_enough(*sent))
                .and_then(|sent| open.take_matching_change(sent))
                .map(FindingKind::Late),
        };
        let answered = changed || last.is_none() || announced.is_some_and(late_enough);
        if answered && announced.is_some() {
            if matches!(event, Some(FindingKind::Captured)) {
                open.consumed_until = Some(stamp);
            }
            // A notice sent after this read is still to be answered.
            open.first_open = open.latest_open.filter(|sent| *sent > stamp);
            open.latest_open = open.first_open;
        }
        self.drop_empty_announcements(field);
        event.map(|event| Finding {
            field: field.clone(),
            kind: event,
        })
    }

    /// Stamp of the last read that got `field`.
    pub(crate) fn last_read_stamp(&self, field: &FieldName) -> Option<FacebookTime> {
        let register = self.registers.get(field)?;
        match register.source {
            Source::Poll => Some(register.stamp),
            Source::Webhook => self.announcements.get(field)?.last_read,
        }
    }

    fn drop_empty_announcements(&mut self, field: &FieldName) {
        if self.announcements.get(field) == Some(&FieldAnnouncements::default()) {
            self.announcements.remove(field);
        }
    }

    /// Whether webhooks of this Page seem not to come: a change was missed, and nothing was heard that
    /// was sent after it was found.
    pub fn is_silent(&self, now: HostTime) -> bool {
        let heard = self.polling.read_after.unwrap_or_default();
        let gaps = self
            .announcements
            .values()
            .flat_map(|open| &open.unannounced);
        let missed = gaps.filter(|gap| gap.is_missed(now));
        missed
            .max_by_key(|gap| gap.found_by_read)
            .is_some_and(|gap| heard <= gap.found_by_read.plus(READ_STALENESS))
    }
}

#[cfg(test)]
#[path = "missed_webhooks_tests.rs"]
mod tests;
