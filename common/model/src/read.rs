//! Reads of Pages: the stamp of a read, and how its result changes a Page.
//!
//! Invariants: the stamp of a read is never later than the instant at which Graph answered it, on
//! Facebook's clock. This host's clock is used only to check whether the stamp is plausible. A
//! known value is never cleared because one reply lacks it.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::field::FieldName;
use crate::missed_webhooks::{Finding, ReadComparison};
use crate::page::{Change, Observation, Page, Source, Status};
use crate::time::{FacebookTime, HostTime};
use crate::value::CanonicalValue;

/// How many fields with a stored value must be missing from one read to make the Page degraded. An
/// outage or a lost permission is then a more likely cause than an owner who cleared all of them.
pub const DEGRADED_THRESHOLD: usize = 3;
/// How far a `Date` may be ahead of this host's clock.
const MAX_DATE_AHEAD: Duration = Duration::from_secs(24 * 3600);
/// How long a reply may have been in a cache.
const MAX_CACHE_AGE: Duration = Duration::from_secs(3600);

/// The reason why a reply has no stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampError {
    /// The `Date` is more than 24 hours ahead of this host's clock.
    TooFarAhead,
    /// The reply was in a cache for more than an hour.
    TooOld,
}

impl fmt::Display for StampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooFarAhead => "its Date is more than a day ahead of this host's clock",
            Self::TooOld => "it was in a cache for more than an hour",
        })
    }
}

impl std::error::Error for StampError {}

/// Returns the stamp of a reply: a lower bound of the instant at which Graph answered.
///
/// It is the `Date` of the reply, minus its `Age`, minus the time that the request took, rounded
/// down to a second. Returns an error if the `Date` is too far ahead of `now`, or if the `Age` is
/// too large.
pub fn read_stamp(
    date: FacebookTime,
    age: Duration,
    took: Duration,
    now: HostTime,
) -> Result<FacebookTime, StampError> {
    if date.ahead_of(now) > MAX_DATE_AHEAD {
        return Err(StampError::TooFarAhead);
    }
    if age > MAX_CACHE_AGE {
        return Err(StampError::TooOld);
    }
    let before = u64::try_from((age + took).as_millis()).unwrap_or(u64::MAX);
    let at = date.0.saturating_sub(before);
    Ok(FacebookTime(at - at % 1000))
}

/// How a Page was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadKind {
    /// Through `/me/accounts`, many Pages at once.
    Accounts,
    /// Alone, with its own token.
    SinglePage,
}

/// A complete reply about one Page.
#[derive(Debug, Clone, Copy)]
pub struct PageRead<'a> {
    /// The fields that were requested.
    pub requested_fields: &'a [FieldName],
    /// The object that Graph returned.
    pub object: &'a Map<String, Value>,
    /// The stamp of the read, from [`read_stamp`].
    pub stamp: FacebookTime,
    /// How the Page was read.
    pub kind: ReadKind,
    /// The present time, on this host's clock. It is recorded with each unannounced change.
    pub now: HostTime,
}

/// The effect of a read on a Page.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReadOutcome {
    /// The visible changes.
    pub changes: Vec<Change>,
    /// The findings about the announcements of the fields.
    pub findings: Vec<Finding>,
    /// Whether a field with a stored value is missing and a second read, with the Page's own token,
    /// must confirm that it has no value.
    pub needs_second_read: bool,
}

impl Page {
    /// Applies a complete reply to the Page and sets its status.
    ///
    /// Graph omits fields that have no value, and also fields that the token may not see. So a
    /// known value that is missing is cleared only by a read with the Page's own token, and only if
    /// the previous read lacked the field too. If [`DEGRADED_THRESHOLD`] or more fields with a
    /// stored value are missing, none is cleared.
    pub fn apply_read(&mut self, read: &PageRead<'_>) -> ReadOutcome {
        let present = |field: &FieldName| read.object.get(field.as_str()).filter(|v| !v.is_null());
        let missing: Vec<FieldName> = read
            .requested_fields
            .iter()
            .filter(|field| present(field).is_none() && self.had_value_before(field, read.stamp))
            .cloned()
            .collect();
        let is_degraded = missing.len() >= DEGRADED_THRESHOLD;
        let mut outcome = ReadOutcome::default();
        for field in read.requested_fields {
            if missing.contains(field) {
                let is_confirmed =
                    read.kind == ReadKind::SinglePage && self.missing_fields.contains(field);
                if is_degraded || !is_confirmed {
                    self.missing_fields.insert(field.clone());
                    outcome.needs_second_read |= !is_degraded;
                    continue;
                }
            }
            self.missing_fields.remove(field);
            let observation = Observation {
                field: field.clone(),
                value: present(field).and_then(CanonicalValue::from_json),
                stamp: read.stamp,
                source: Source::Poll,
            };
            let last_read = self.last_read_stamp(field);
            let stored = self.registers.get(field);
            let webhook = stored.filter(|stored| stored.source == Source::Webhook);
            let webhook_stamp = webhook.map(|stored| stored.stamp);
            let change = self.apply_observation(&observation);
            let before = ReadComparison {
                last_read,
                webhook_stamp,
                changed: change.is_some(),
            };
            let finding = self.compare_read(field, before, read.stamp, read.now);
            outcome.findings.extend(finding);
            outcome.changes.extend(change);
        }
        self.last_failure = None;
        self.status = if is_degraded {
            Status::Degraded
        } else {
            Status::Active
        };
        outcome
    }

    /// Returns whether `field` has a value with a stamp before `stamp`.
    fn had_value_before(&self, field: &FieldName, stamp: FacebookTime) -> bool {
        let stored = self.registers.get(field);
        stored.is_some_and(|stored| stored.value.is_some() && stored.stamp < stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECOND: Duration = Duration::from_secs(1);

    fn fields(names: &[&str]) -> Vec<FieldName> {
        names
            .iter()
            .filter_map(|name| FieldName::parse(name))
            .collect()
    }

    fn read(page: &mut Page, object: &Value, second: u64, kind: ReadKind) -> ReadOutcome {
        let requested = fields(&["about", "name", "phone", "website"]);
        page.apply_read(&PageRead {
            requested_fields: &requested,
            object: object.as_object().unwrap(),
            stamp: FacebookTime(second * 1000),
            kind,
            now: HostTime(second * 1000),
        })
    }

    fn value(page: &Page, field: &str) -> Option<String> {
        let field = FieldName::parse(field).unwrap();
        page.registers
            .get(&field)?
            .value
            .as_ref()
            .map(CanonicalValue::to_plain_text)
    }

    #[test]
    fn a_stamp_is_the_date_minus_the_age_and_the_duration_of_the_request() {
        let now = HostTime(1_000_000);
        let stamp = |date, age, took: u64| {
            read_stamp(FacebookTime(date), age, Duration::from_millis(took), now)
        };
        assert_eq!(stamp(900_000, SECOND, 1), Ok(FacebookTime(898_000)));
        assert_eq!(stamp(900_000, Duration::ZERO, 0), Ok(FacebookTime(900_000)));
        assert_eq!(
            stamp(900_000, Duration::ZERO, 1500),
            Ok(FacebookTime(898_000))
        );
        assert_eq!(stamp(900_000, 3601 * SECOND, 0), Err(StampError::TooOld));
        assert_eq!(
            stamp(now.0 + 86_401_000, SECOND, 0),
            Err(StampError::TooFarAhead)
        );
        assert_eq!(stamp(500, SECOND, 0), Ok(FacebookTime(0)), "no underflow");
    }

    #[test]
    fn a_missing_field_that_was_never_known_is_null_at_once() {
        let mut page = Page::default();
        let outcome = read(&mut page, &json!({"name": "n"}), 10, ReadKind::Accounts);
        assert_eq!(outcome.changes.len(), 1);
        assert_eq!(
            page.registers.len(),
            4,
            "every requested field has a register"
        );
        assert_eq!(value(&page, "phone"), None);
        assert!(!outcome.needs_second_read);
    }

    #[test]
    fn a_known_value_is_cleared_by_a_second_read_with_the_pages_own_token() {
        let mut page = Page::default();
        read(
            &mut page,
            &json!({"name": "n", "phone": "1"}),
            10,
            ReadKind::Accounts,
        );
        for kind in [ReadKind::Accounts, ReadKind::Accounts] {
            let outcome = read(&mut page, &json!({"name": "n"}), 20, kind);
            assert!(outcome.needs_second_read);
            assert_eq!(value(&page, "phone").as_deref(), Some("1"));
        }
        let outcome = read(&mut page, &json!({"name": "n"}), 90, ReadKind::SinglePage);
        assert_eq!(
            (outcome.changes.len(), outcome.needs_second_read),
            (1, false)
        );
        assert_eq!(value(&page, "phone"), None);
        assert!(page.missing_fields.is_empty());
    }

    #[test]
    fn a_field_that_was_returned_again_needs_two_reads_to_be_cleared() {
        let mut page = Page::default();
        let both = json!({"name": "n", "phone": "1"});
        read(&mut page, &both, 10, ReadKind::SinglePage);
        read(&mut page, &json!({"name": "n"}), 20, ReadKind::SinglePage);
        read(&mut page, &both, 30, ReadKind::SinglePage);
        assert!(read(&mut page, &json!({"name": "n"}), 40, ReadKind::SinglePage).needs_second_read);
        assert_eq!(value(&page, "phone").as_deref(), Some("1"));
    }

    #[test]
    fn three_fields_missing_at_once_degrade_the_page_and_keep_their_values() {
        let mut page = Page::default();
        let whole = json!({"name": "n", "phone": "1", "about": "a", "website": "w"});
        read(&mut page, &whole, 10, ReadKind::SinglePage);
        for second in [20, 30, 40] {
            read(
                &mut page,
                &json!({"name": "new"}),
                second,
                ReadKind::SinglePage,
            );
            assert_eq!(page.status, Status::Degraded);
        }
        assert_eq!(value(&page, "name").as_deref(), Some("new"));
        assert_eq!(value(&page, "about").as_deref(), Some("a"));
        read(&mut page, &whole, 50, ReadKind::SinglePage);
        assert_eq!(page.status, Status::Active);
    }

    #[test]
    fn a_value_that_a_webhook_reported_after_the_read_is_not_cleared_by_it() {
        let mut page = Page::default();
        page.apply_observation(&Observation {
            field: FieldName::parse("name").unwrap(),
            value: CanonicalValue::from_json(&json!("new")),
            stamp: FacebookTime(30_000),
            source: Source::Webhook,
        });
        let outcome = read(&mut page, &json!({}), 20, ReadKind::SinglePage);
        assert_eq!(
            (outcome.changes, outcome.needs_second_read),
            (Vec::new(), false)
        );
        assert_eq!(value(&page, "name").as_deref(), Some("new"));
    }
}
