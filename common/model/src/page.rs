//! A Page and how observations of it merge.
//!
//! Invariant: a Page's registers are a join. [`Page::observe`] keeps, per field, the maximum of a
//! total order, so duplicates, reordering and replays cannot change where it ends. This is the only
//! place that knows the rule; the stores compare versions and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::announcements::Announcements;
use crate::field::FieldName;
use crate::id::UserId;
use crate::polling::Polling;
use crate::time::{FacebookTime, HostTime};
use crate::value::CanonicalValue;

/// How we came to know a value. The order is the rank: at the same stamp a webhook beats a read,
/// because the read may have happened earlier in that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A read of the Graph API.
    Poll,
    /// A webhook that carried the value.
    Webhook,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Poll => "poll",
            Self::Webhook => "webhook",
        })
    }
}

/// One value of one field, as seen once. `stamp` is on Facebook's clock: of a webhook its
/// `entry.time`, of a read a lower bound of the instant it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Which field.
    pub field: FieldName,
    /// Its value; `None` is null.
    pub value: Option<CanonicalValue>,
    /// When, on Facebook's clock.
    pub stamp: FacebookTime,
    /// How we know.
    pub source: Source,
}

/// Where a value was first seen. Shown to people; no part of the merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Stamp of the first sighting of the value that still stands.
    pub stamp: FacebookTime,
    /// How it was seen.
    pub source: Source,
}

/// What is known of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// Stamp of the newest observation.
    pub stamp: FacebookTime,
    /// Its source.
    pub source: Source,
    /// Its value; `None` is null.
    pub value: Option<CanonicalValue>,
    /// First sighting of this value.
    pub origin: Origin,
}

impl Register {
    /// The merge key: later stamp, then higher rank, then null below any value, then bytes.
    pub fn merge_key(&self) -> (FacebookTime, Source, Option<&CanonicalValue>) {
        (self.stamp, self.source, self.value.as_ref())
    }
}

/// A visible change of one field: what history keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which field.
    pub field: FieldName,
    /// The value before; `None` is null or never seen.
    pub before: Option<CanonicalValue>,
    /// The value now.
    pub after: Option<CanonicalValue>,
    /// Stamp of the observation that changed it, on Facebook's clock.
    pub stamp: FacebookTime,
    /// Its source.
    pub source: Source,
}

/// What can be said of a Page as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Kept up to date.
    #[default]
    Active,
    /// Facebook says it does not exist, or that nobody of ours may see it.
    Unreachable,
    /// Every token for it is dead: somebody must log in again. Webhooks are still kept.
    NeedsLogin,
    /// The token lacks a permission that reading needs.
    NeedsPermission,
    /// Its token is sealed with a key this worker does not have.
    NeedsKey,
    /// No token for it came: the person lacks a role on it, or it was registered by hand.
    NoToken,
    /// Three or more known fields vanished at once from a read. Their values are kept.
    Degraded,
    /// Its stored form could not be read; it was started again and waits for a read.
    Corrupt,
    /// Erased on request. Nothing is kept but this and the version, and no webhook revives it.
    Erased,
}

impl Status {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::Active,
        Self::Unreachable,
        Self::NeedsLogin,
        Self::NeedsPermission,
        Self::NeedsKey,
        Self::NoToken,
        Self::Degraded,
        Self::Corrupt,
        Self::Erased,
    ];
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Unreachable => "unreachable",
            Self::NeedsLogin => "needs_login",
            Self::NeedsPermission => "needs_permission",
            Self::NeedsKey => "needs_key",
            Self::NoToken => "no_token",
            Self::Degraded => "degraded",
            Self::Corrupt => "corrupt",
            Self::Erased => "erased",
        })
    }
}

/// The error for a text that is no status. It does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownStatus {
    /// The length of the text.
    pub bytes: usize,
}

impl fmt::Display for UnknownStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown status of {} bytes", self.bytes)
    }
}

impl std::error::Error for UnknownStatus {}

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        let found = Self::ALL
            .into_iter()
            .find(|status| status.to_string() == text);
        found.ok_or(UnknownStatus { bytes: text.len() })
    }
}

/// Everything known of one Page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Its state as a whole.
    pub status: Status,
    /// What is known of each field.
    pub registers: BTreeMap<FieldName, Register>,
    /// What decides when it is read next.
    pub polling: Polling,
    /// Whose logins cover it.
    pub connections: BTreeSet<UserId>,
    /// Known fields that the last read asked for and did not get.
    pub missing_fields: BTreeSet<FieldName>,
    /// What is open between notices and reads. No part of the merge.
    pub announcements: Announcements,
    /// Of a forgotten Page: when that was asked for, on our clock. A later login revives it.
    pub erased_at: Option<HostTime>,
}

impl Page {
    /// Takes one observation into account. Answers with the change a reader of the Page would see,
    /// if there is one; a register may move up without one (the same value, seen again later).
    pub fn apply_observation(&mut self, seen: &Observation) -> Option<Change> {
        let mut next = Register {
            stamp: seen.stamp,
            source: seen.source,
            value: seen.value.clone(),
            origin: Origin {
                stamp: seen.stamp,
                source: seen.source,
            },
        };
        let stored = self.registers.get(&seen.field);
        if stored.is_some_and(|stored| stored.merge_key() >= next.merge_key()) {
            return None;
        }
        let before = stored.and_then(|stored| stored.value.clone());
        let same = seen
            .field
            .is_same_value(before.as_ref(), seen.value.as_ref());
        if let Some(stored) = stored.filter(|_| same) {
            next.origin = stored.origin;
        }
        self.registers.insert(seen.field.clone(), next);
        (!same && !seen.field.is_counter()).then(|| Change {
            field: seen.field.clone(),
            before,
            after: seen.value.clone(),
            stamp: seen.stamp,
            source: seen.source,
        })
    }

    /// When a read last proved the value of `field`, on Facebook's clock. `None`: a webhook said it
    /// since, or the last read asked for the field and did not get it.
    pub fn confirmed_at(&self, field: &FieldName) -> Option<FacebookTime> {
        let register = self.registers.get(field)?;
        (register.source == Source::Poll).then_some(register.stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn seen(field: &str, value: &Value, stamp: u64, source: Source) -> Observation {
        let field = FieldName::parse(field).unwrap();
        Observation {
            field,
            value: CanonicalValue::from_json(value),
            stamp: FacebookTime(stamp),
            source,
        }
    }

    #[test]
    fn at_the_same_second_a_webhook_beats_a_read_whichever_comes_first() {
        let poll = seen("name", &json!("old"), 1000, Source::Poll);
        let webhook = seen("name", &json!("new"), 1000, Source::Webhook);
        for order in [[&poll, &webhook], [&webhook, &poll]] {
            let mut page = Page::default();
            for one in order {
                page.apply_observation(one);
            }
            assert_eq!(page.registers.values().next().unwrap().value, webhook.value);
        }
    }

    #[test]
    fn the_same_value_seen_later_keeps_its_origin_and_is_no_change() {
        let mut page = Page::default();
        assert!(
            page.apply_observation(&seen("name", &json!("n"), 1000, Source::Webhook))
                .is_some()
        );
        assert!(
            page.apply_observation(&seen("name", &json!("n"), 9000, Source::Poll))
                .is_none()
        );
        let register = page.registers.values().next().unwrap();
        assert_eq!(register.stamp, FacebookTime(9000));
        assert_eq!(
            register.origin,
            Origin {
                stamp: FacebookTime(1000),
                source: Source::Webhook
            }
        );
    }

    #[test]
    fn a_counter_moves_without_a_change() {
        let mut page = Page::default();
        assert!(
            page.apply_observation(&seen("fan_count", &json!(1), 1, Source::Poll))
                .is_none()
        );
        assert!(
            page.apply_observation(&seen("fan_count", &json!(2), 2, Source::Poll))
                .is_none()
        );
        assert_eq!(
            page.registers.values().next().unwrap().value,
            CanonicalValue::from_json(&json!(2))
        );
    }

    #[test]
    fn null_is_a_value_below_every_other() {
        let mut page = Page::default();
        page.apply_observation(&seen("phone", &json!("1"), 5, Source::Poll));
        assert!(
            page.apply_observation(&seen("phone", &Value::Null, 5, Source::Poll))
                .is_none()
        );
        let change = page
            .apply_observation(&seen("phone", &Value::Null, 6, Source::Poll))
            .unwrap();
        assert_eq!(
            (change.before, change.after),
            (CanonicalValue::from_json(&json!("1")), None)
        );
    }
}
