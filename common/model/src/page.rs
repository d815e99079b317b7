//! A Page, and how observations of it merge.
//!
//! Invariant: the registers of a Page are a join. [`Page::apply_observation`] stores for each field
//! the maximum of a total order, so duplicates, reordering and replays do not change the result.
//! The rule is in this module and nowhere else; the stores compare only versions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::announcements::Announcements;
use crate::failure::Failure;
use crate::field::{FieldName, TrackedFields};
use crate::id::UserId;
use crate::polling::Polling;
use crate::time::{FacebookTime, HostTime};
use crate::value::CanonicalValue;

/// The source of a value. The variants are ordered by rank: at the same stamp a webhook wins
/// over a read, because the read may have happened earlier in that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A read of Graph.
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

/// A value that one read or webhook reports for one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The field.
    pub field: FieldName,
    /// The value; `None` is null.
    pub value: Option<CanonicalValue>,
    /// The `entry.time` of the webhook, or a lower bound of the instant at which Graph answered the
    /// read.
    pub stamp: FacebookTime,
    /// Whether a read or a webhook reported the value.
    pub source: Source,
}

/// The first observation of the current value of a field. It is only displayed; the merge does not
/// use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The stamp of the observation.
    pub stamp: FacebookTime,
    /// The source of the observation.
    pub source: Source,
}

/// The stored state of one field: the observation that won the merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// The stamp of the observation.
    pub stamp: FacebookTime,
    /// The source of the observation.
    pub source: Source,
    /// The value; `None` is null.
    pub value: Option<CanonicalValue>,
    /// The first observation of the same value.
    pub origin: Origin,
}

impl Register {
    /// Returns the key of the merge order: stamp, then source, then value. Null is below every
    /// value, and values compare by their bytes.
    pub fn merge_key(&self) -> (FacebookTime, Source, Option<&CanonicalValue>) {
        (self.stamp, self.source, self.value.as_ref())
    }
}

/// A visible change of one field, as the history stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The field.
    pub field: FieldName,
    /// The value before the change; `None` if it was null or the field had never been observed.
    pub before: Option<CanonicalValue>,
    /// The value after the change; `None` is null.
    pub after: Option<CanonicalValue>,
    /// The stamp of the observation that changed the value.
    pub stamp: FacebookTime,
    /// The source of the observation.
    pub source: Source,
}

/// The status of a Page as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The Page is kept up to date.
    #[default]
    Active,
    /// Facebook reports that the Page does not exist, or that the token may not see it.
    Unreachable,
    /// Every token for the Page is invalid. A person must log in again. Webhooks are still applied.
    NeedsLogin,
    /// The token lacks a permission that a read needs.
    NeedsPermission,
    /// The token is sealed to a key that the worker does not have.
    NeedsKey,
    /// There is no token for the Page: the person has no role on it, or no connection gives access
    /// to it.
    NoToken,
    /// Three or more fields with a stored value were missing from one read. Their values are
    /// retained.
    Degraded,
    /// The stored form of the Page could not be read. The Page starts again with the next read.
    Corrupt,
    /// The Page was erased on request. Only its status, its version and the time of the erasure
    /// request are stored, and webhooks do not change it.
    Erased,
}

impl Status {
    /// Returns the name of the status, as it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Unreachable => "unreachable",
            Self::NeedsLogin => "needs_login",
            Self::NeedsPermission => "needs_permission",
            Self::NeedsKey => "needs_key",
            Self::NoToken => "no_token",
            Self::Degraded => "degraded",
            Self::Corrupt => "corrupt",
            Self::Erased => "erased",
        }
    }

    /// Every status.
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
        f.write_str(self.as_str())
    }
}

/// The error for a text that is not a status. It does not repeat the text.
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

/// The state of one Page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The status of the Page as a whole.
    pub status: Status,
    /// The register of each field that was observed.
    pub registers: BTreeMap<FieldName, Register>,
    /// The poll state, which determines when the Page is read next.
    pub polling: Polling,
    /// The connections that give access to the Page.
    pub connections: BTreeSet<UserId>,
    /// The client for whom the Page was connected last; `None` if no invitation named one.
    pub client: Option<String>,
    /// The fields with a stored value that the last read requested and did not return.
    pub missing_fields: BTreeSet<FieldName>,
    /// The open notifications and the unannounced changes. The merge does not use them.
    pub announcements: Announcements,
    /// The last failed attempt to read the Page; `None` if the last attempt did not fail.
    pub last_failure: Option<Failure>,
    /// When the erasure of an erased Page was requested; see
    /// [`ErasureRequest::requested_at`](crate::job::ErasureRequest::requested_at). A connection
    /// poll stores the Page again only if the person logged in after this time.
    pub erasure_requested_at: Option<HostTime>,
}

impl Page {
    /// Ends the reads of the Page, because nobody gives access to it any more. Later notifications and
    /// requests count again.
    pub fn stop_reads(&mut self) {
        self.status = Status::NoToken;
        self.last_failure = None;
        self.polling = Polling {
            last_read_stamp: self.polling.last_read_stamp,
            last_success_began: self.polling.last_success_began,
            last_attempt_began: self.polling.last_attempt_began,
            ..Polling::default()
        };
    }

    /// Removes the values of fields that are no longer tracked, which nothing reads any more.
    pub fn remove_untracked(&mut self, tracked: &TrackedFields) {
        self.registers.retain(|field, _| tracked.contains(field));
        self.missing_fields.retain(|field| tracked.contains(field));
    }

    /// Merges one observation into the Page. Returns the visible change, if there is one. Without
    /// one the register may still change: its stamp rises when the same value is observed again.
    pub fn apply_observation(&mut self, observation: &Observation) -> Option<Change> {
        let mut next = Register {
            stamp: observation.stamp,
            source: observation.source,
            value: observation.value.clone(),
            origin: Origin {
                stamp: observation.stamp,
                source: observation.source,
            },
        };
        let stored = self.registers.get(&observation.field);
        if stored.is_some_and(|stored| stored.merge_key() >= next.merge_key()) {
            return None;
        }
        let before = stored.and_then(|stored| stored.value.clone());
        let is_same = observation
            .field
            .is_same_value(before.as_ref(), observation.value.as_ref());
        if let Some(stored) = stored.filter(|_| is_same) {
            next.origin = stored.origin;
        }
        self.registers.insert(observation.field.clone(), next);
        (!is_same && !observation.field.is_counter()).then(|| Change {
            field: observation.field.clone(),
            before,
            after: observation.value.clone(),
            stamp: observation.stamp,
            source: observation.source,
        })
    }

    /// Returns when a read last confirmed the value of `field`, on Facebook's clock. Returns `None`
    /// if a webhook has reported the value since, or if no read has returned it yet.
    pub fn confirmed_at(&self, field: &FieldName) -> Option<FacebookTime> {
        let register = self.registers.get(field)?;
        (register.source == Source::Poll).then_some(register.stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn observation(field: &str, value: &Value, stamp: u64, source: Source) -> Observation {
        let field = FieldName::parse(field).unwrap();
        Observation {
            field,
            value: CanonicalValue::from_json(value),
            stamp: FacebookTime(stamp),
            source,
        }
    }

    #[test]
    fn a_webhook_wins_over_a_read_with_the_same_stamp_in_either_order() {
        let poll = observation("name", &json!("old"), 1000, Source::Poll);
        let webhook = observation("name", &json!("new"), 1000, Source::Webhook);
        for order in [[&poll, &webhook], [&webhook, &poll]] {
            let mut page = Page::default();
            for observation in order {
                page.apply_observation(observation);
            }
            assert_eq!(page.registers.values().next().unwrap().value, webhook.value);
        }
    }

    #[test]
    fn a_value_that_is_observed_again_keeps_its_origin_and_is_no_change() {
        let mut page = Page::default();
        assert!(
            page.apply_observation(&observation("name", &json!("n"), 1000, Source::Webhook))
                .is_some()
        );
        assert!(
            page.apply_observation(&observation("name", &json!("n"), 9000, Source::Poll))
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
    fn a_counter_is_updated_without_a_change() {
        let mut page = Page::default();
        assert!(
            page.apply_observation(&observation("fan_count", &json!(1), 1, Source::Poll))
                .is_none()
        );
        assert!(
            page.apply_observation(&observation("fan_count", &json!(2), 2, Source::Poll))
                .is_none()
        );
        assert_eq!(
            page.registers.values().next().unwrap().value,
            CanonicalValue::from_json(&json!(2))
        );
    }

    #[test]
    fn null_loses_at_the_same_stamp_and_wins_at_a_later_one() {
        let mut page = Page::default();
        page.apply_observation(&observation("phone", &json!("1"), 5, Source::Poll));
        assert!(
            page.apply_observation(&observation("phone", &Value::Null, 5, Source::Poll))
                .is_none()
        );
        let change = page
            .apply_observation(&observation("phone", &Value::Null, 6, Source::Poll))
            .unwrap();
        assert_eq!(
            (change.before, change.after),
            (CanonicalValue::from_json(&json!("1")), None)
        );
    }
}
