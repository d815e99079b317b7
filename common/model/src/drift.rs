//! The drift meter: which changes of a Page its webhooks announced, and which only a read found.
//!
//! A read compares with the read before it. What changed in between and was announced is *captured*;
//! what changed and could have been announced, and was not, is a [`Gap`]. A notice that turns up later
//! makes the gap *late*; after [`GRACE`] it counts as *missed*. Several changes between two reads are
//! one. Invariant: disorder, duplicates and deliveries that come hours late make no gap that stays;
//! and what a notice announced is never counted twice.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::due::STALE_READS;
use crate::field::{FieldName, is_announceable};
use crate::page::{Change, Observation, Page, Source};
use crate::time::Millis;

/// How long a delivery may take before its change counts as missed.
pub const GRACE: Duration = Duration::from_secs(3600);
/// How long the Page itself remembers a gap: Facebook repeats deliveries for 36 hours.
const MEMORY: Duration = Duration::from_secs(48 * 3600);
/// Stands for the time of a notice that had none.
const UNDATED: Millis = Millis(0);
/// Gaps of one field that the Page remembers.
const GAPS: usize = 16;

/// A change that a read found and nothing had announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Stamp of the read before: the change is not older.
    pub since: Millis,
    /// Stamp of the read that found it.
    pub read: Millis,
    /// Stamp of the last read up to which nothing else changed: a notice may have been sent after the
    /// read that found its change.
    pub until: Millis,
    /// When it was found, on our clock; from here the grace runs.
    pub at: Millis,
}

impl Gap {
    /// Whether its notice would be too late by now.
    pub fn is_missed(&self, now: Millis) -> bool {
        now >= self.at.plus(GRACE)
    }
}

/// What is open between notices and reads of one field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Open {
    /// The first `entry.time` that no read has answered yet; 0 if the notice had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announced: Option<Millis>,
    /// The latest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest: Option<Millis>,
    /// Notices sent up to then are used up: by the last read, if it captured a change, or by a gap of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Millis>,
    /// A webhook changed the value since the last read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
    /// Stamp of the last read, where a webhook's value has taken the place of the read one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Millis>,
    /// Changes found and not announced, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// What is open of each field. A field with nothing open is not in it.
pub type Drift = BTreeMap<FieldName, Open>;

/// What the meter found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Announced and changed.
    Captured,
    /// A gap was announced after all.
    Late(Gap),
    /// A new gap.
    Opened(Gap),
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
    pub event: Event,
}

impl Open {
    fn announce(&mut self, sent: Millis) {
        self.announced = Some(self.announced.map_or(sent, |first| first.min(sent)));
        self.latest = self.latest.max(Some(sent));
    }

    /// Takes the gap that a notice sent at `sent` can have announced; 0: the newest.
    fn settle(&mut self, sent: Millis) -> Option<Gap> {
        let announced = |gap: &Gap| gap.since <= sent && sent <= gap.until;
        let at = self
            .gaps
            .iter()
            .rposition(|gap| announced(gap) || sent == UNDATED)?;
        Some(self.gaps.remove(at))
    }
}

impl Page {
    /// Takes a notice of `field` into account, sent at `sent` on Facebook's clock, with what it carries of
    /// that field among `seen`. Answers with the changes a reader sees and with what the meter found.
    pub fn hear(
        &mut self,
        field: &FieldName,
        sent: Option<Millis>,
        seen: &[Observation],
    ) -> (Vec<Change>, Option<Finding>) {
        let last = self.last_read(field);
        let open = self.drift.entry(field.clone()).or_default();
        // What was sent before the last read is answered by it, unless a read found a gap for it, or it
        // may have been too early to see the change.
        let settled = if let Some(sent) = sent {
            let gap = (last > Some(sent)).then(|| open.settle(sent)).flatten();
            let may_be_new = last.is_none_or(|last| sent.plus(STALE_READS) >= last);
            if gap.is_some() && may_be_new {
                open.used = open.used.max(Some(sent));
            } else if may_be_new && open.used < Some(sent) {
                open.announce(sent);
            }
            gap
        } else {
            let gap = open.settle(UNDATED);
            if gap.is_none() {
                open.announce(UNDATED);
            }
            gap
        };
        let mut changes = Vec::new();
        for seen in seen.iter().filter(|seen| seen.field == *field) {
            changes.extend(self.observe(seen));
            let register = self.registers.get(field);
            if register.is_some_and(|register| register.source == Source::Webhook) {
                let open = self.drift.entry(field.clone()).or_default();
                open.since = last;
                open.moved |= !changes.is_empty();
            }
        }
        self.tidy(field);
        let late = settled.map(|gap| Finding {
            field: field.clone(),
            event: Event::Late(gap),
        });
        (changes, late)
    }

    /// What a read of `field` at `stamp` means for the meter. Before it, `last` was [`Self::last_read`],
    /// and `webhook` the stamp of the value if a webhook had said it; `changed`: whether the read changed
    /// the value that stood; `now` is our clock.
    pub(crate) fn judge(
        &mut self,
        field: &FieldName,
        (last, webhook, changed): (Option<Millis>, Option<Millis>, bool),
        stamp: Millis,
        now: Millis,
    ) -> Option<Finding> {
        let read_won = |register: &crate::page::Register| register.source == Source::Poll;
        let is_old = last.is_some_and(|last| stamp <= last) && !changed;
        if field.is_counter() || is_old || !self.registers.get(field).is_some_and(read_won) {
            return None;
        }
        let open = self.drift.entry(field.clone()).or_default();
        open.since = None;
        open.used = None;
        let late_enough = |sent: Millis| sent.plus(STALE_READS) < stamp;
        if changed && webhook.is_some_and(|sent| !late_enough(sent)) {
            // It takes a webhook's value back, and may be older than that: the next read tells.
            return None;
        }
        let changed = std::mem::take(&mut open.moved) || changed;
        open.gaps.retain(|gap| gap.at.plus(MEMORY) > now);
        if !changed && let Some(gap) = open.gaps.last_mut().filter(|gap| Some(gap.until) >= last) {
            gap.until = gap.until.max(stamp);
        }
        let announced = open.announced.filter(|sent| *sent <= stamp);
        let event = match (last, changed) {
            (None, _) => Some(Event::Initial),
            (Some(_), true) if announced.is_some() => Some(Event::Captured),
            (Some(since), true) if is_announceable(field) => {
                let gap = Gap {
                    since,
                    read: stamp,
                    until: stamp,
                    at: now,
                };
                open.gaps.push(gap);
                if open.gaps.len() > GAPS {
                    open.gaps.remove(0);
                }
                Some(Event::Opened(gap))
            }
            (Some(_), true) => Some(Event::Unannounceable),
            // It announced nothing new. Late enough not to be a stale answer, this means that the notice
            // was sent after a read had already found the change.
            (Some(_), false) => announced
                .filter(|sent| late_enough(*sent))
                .and_then(|sent| open.settle(sent))
                .map(Event::Late),
        };
        let answered = changed || last.is_none() || announced.is_some_and(late_enough);
        if answered && announced.is_some() {
            if matches!(event, Some(Event::Captured)) {
                open.used = Some(stamp);
            }
            // A notice sent after this read is still to be answered.
            open.announced = open.latest.filter(|sent| *sent > stamp);
            open.latest = open.announced;
        }
        self.tidy(field);
        event.map(|event| Finding {
            field: field.clone(),
            event,
        })
    }

    /// Stamp of the last read that got `field`.
    pub(crate) fn last_read(&self, field: &FieldName) -> Option<Millis> {
        let register = self.registers.get(field)?;
        match register.source {
            Source::Poll => Some(register.stamp),
            Source::Webhook => self.drift.get(field)?.since,
        }
    }

    fn tidy(&mut self, field: &FieldName) {
        if self.drift.get(field) == Some(&Open::default()) {
            self.drift.remove(field);
        }
    }

    /// Whether webhooks of this Page seem not to come: a change was missed, and nothing was heard that
    /// was sent after it was found.
    pub fn is_deaf(&self, now: Millis) -> bool {
        let heard = self.polling.need.unwrap_or_default();
        let gaps = self.drift.values().flat_map(|open| &open.gaps);
        let missed = gaps.filter(|gap| gap.is_missed(now));
        missed
            .max_by_key(|gap| gap.read)
            .is_some_and(|gap| heard <= gap.read.plus(STALE_READS))
    }
}

#[cfg(test)]
#[path = "drift_tests.rs"]
mod tests;
