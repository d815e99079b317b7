//! Reads of Facebook: when one happened, and what it says of a Page.
//!
//! Invariant: a read's stamp is never later than the instant Facebook answered it, on Facebook's
//! clock; ours is used only to see whether Facebook's is plausible. A value is never cleared because
//! one answer left it out.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::field::FieldName;
use crate::missed_webhooks::Finding;
use crate::page::{Change, Observation, Page, Source, Status};
use crate::time::{FacebookTime, HostTime};
use crate::value::CanonicalValue;

/// So many known fields missing at once is an outage or a lost permission, not the owner.
pub const DEGRADED_THRESHOLD: usize = 3;
/// A `Date` further ahead of us than this is not believed.
const MAX_DATE_AHEAD: Duration = Duration::from_secs(24 * 3600);
/// An answer that lay in a cache longer than this says nothing about now.
const MAX_CACHE_AGE: Duration = Duration::from_secs(3600);

/// Why an answer has no stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampError {
    /// More than 24 h ahead of us.
    TooFarAhead,
    /// From a cache, more than an hour old.
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

/// The lower bound of the instant an answer was made: its `Date` less its `Age` less the time the
/// request took, to the second below. `now` is our clock.
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

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadKind {
    /// `/me/accounts`: many Pages at once.
    PageList,
    /// The Page's own token.
    PageToken,
}

/// A complete answer about one Page.
#[derive(Debug, Clone, Copy)]
pub struct PageRead<'a> {
    /// Which fields were asked for.
    pub requested_fields: &'a [FieldName],
    /// The object that came back.
    pub object: &'a Map<String, Value>,
    /// See [`stamp`].
    pub stamp: FacebookTime,
    /// Who asked.
    pub kind: ReadKind,
    /// Our clock, for the grace of the drift meter.
    pub now: HostTime,
}

/// What a read did to a Page.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReadOutcome {
    /// What a reader of the Page sees change.
    pub changes: Vec<Change>,
    /// What the drift meter found.
    pub findings: Vec<Finding>,
    /// A known field is missing: only a second read, with the Page's own token, may clear it.
    pub needs_second_read: bool,
}

impl Page {
    /// Takes a complete answer into account.
    ///
    /// Facebook leaves out what has no value, and also what the token may not see. So a known value
    /// that is missing is cleared only by a read with the Page's own token that agrees with the read
    /// before it; [`DEGRADED_FROM`] of them at once clear nothing.
    pub fn apply_read(&mut self, read: &PageRead<'_>) -> ReadOutcome {
        let present = |field: &FieldName| read.object.get(field.as_str()).filter(|v| !v.is_null());
        let vanished: Vec<FieldName> = read
            .requested_fields
            .iter()
            .filter(|field| present(field).is_none() && self.had_value_before(field, read.stamp))
            .cloned()
            .collect();
        let degraded = vanished.len() >= DEGRADED_THRESHOLD;
        let mut outcome = ReadOutcome::default();
        for field in read.requested_fields {
            if vanished.contains(field) {
                let agreed =
                    read.kind == ReadKind::PageToken && self.missing_fields.contains(field);
                if degraded || !agreed {
                    self.missing_fields.insert(field.clone());
                    outcome.needs_second_read |= !degraded;
                    continue;
                }
            }
            self.missing_fields.remove(field);
            let seen = Observation {
                field: field.clone(),
                value: present(field).and_then(CanonicalValue::from_json),
                stamp: read.stamp,
                source: Source::Poll,
            };
            let last = self.last_read_stamp(field);
            let stored = self.registers.get(field);
            let webhook = stored.filter(|stored| stored.source == Source::Webhook);
            let webhook = webhook.map(|stored| stored.stamp);
            let change = self.apply_observation(&seen);
            let before = (last, webhook, change.is_some());
            let found = self.compare_read(field, before, read.stamp, read.now);
            outcome.findings.extend(found);
            outcome.changes.extend(change);
        }
        self.status = if degraded {
            Status::Degraded
        } else {
            Status::Active
        };
        outcome
    }

    /// Whether a value of `field` was known before `stamp`.
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

    fn read(page: &mut Page, object: &Value, second: u64, reader: ReadKind) -> ReadOutcome {
        let asked = fields(&["about", "name", "phone", "website"]);
        page.apply_read(&PageRead {
            requested_fields: &asked,
            object: object.as_object().unwrap(),
            stamp: FacebookTime(second * 1000),
            kind: reader,
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
    fn a_stamp_is_date_less_age_less_the_time_it_took() {
        let now = HostTime(1_000_000);
        let at = |date, age, took: u64| {
            read_stamp(FacebookTime(date), age, Duration::from_millis(took), now)
        };
        assert_eq!(at(900_000, SECOND, 1), Ok(FacebookTime(898_000)));
        assert_eq!(at(900_000, Duration::ZERO, 0), Ok(FacebookTime(900_000)));
        assert_eq!(at(900_000, Duration::ZERO, 1500), Ok(FacebookTime(898_000)));
        assert_eq!(at(900_000, 3601 * SECOND, 0), Err(StampError::TooOld));
        assert_eq!(
            at(now.0 + 86_401_000, SECOND, 0),
            Err(StampError::TooFarAhead)
        );
        assert_eq!(at(500, SECOND, 0), Ok(FacebookTime(0)), "no underflow");
    }

    #[test]
    fn what_was_never_known_is_null_at_once() {
        let mut page = Page::default();
        let outcome = read(&mut page, &json!({"name": "n"}), 10, ReadKind::PageList);
        assert_eq!(outcome.changes.len(), 1);
        assert_eq!(page.registers.len(), 4, "every field asked for has a proof");
        assert_eq!(value(&page, "phone"), None);
        assert!(!outcome.needs_second_read);
    }

    #[test]
    fn a_known_value_is_cleared_by_the_second_read_of_the_pages_own_token() {
        let mut page = Page::default();
        read(
            &mut page,
            &json!({"name": "n", "phone": "1"}),
            10,
            ReadKind::PageList,
        );
        for reader in [ReadKind::PageList, ReadKind::PageList] {
            let outcome = read(&mut page, &json!({"name": "n"}), 20, reader);
            assert!(outcome.needs_second_read);
            assert_eq!(value(&page, "phone").as_deref(), Some("1"));
        }
        let outcome = read(&mut page, &json!({"name": "n"}), 90, ReadKind::PageToken);
        assert_eq!(
            (outcome.changes.len(), outcome.needs_second_read),
            (1, false)
        );
        assert_eq!(value(&page, "phone"), None);
        assert!(page.missing_fields.is_empty());
    }

    #[test]
    fn a_field_that_comes_back_begins_anew() {
        let mut page = Page::default();
        let both = json!({"name": "n", "phone": "1"});
        read(&mut page, &both, 10, ReadKind::PageToken);
        read(&mut page, &json!({"name": "n"}), 20, ReadKind::PageToken);
        read(&mut page, &both, 30, ReadKind::PageToken);
        assert!(read(&mut page, &json!({"name": "n"}), 40, ReadKind::PageToken).needs_second_read);
        assert_eq!(value(&page, "phone").as_deref(), Some("1"));
    }

    #[test]
    fn three_fields_gone_at_once_are_an_outage() {
        let mut page = Page::default();
        let whole = json!({"name": "n", "phone": "1", "about": "a", "website": "w"});
        read(&mut page, &whole, 10, ReadKind::PageToken);
        for second in [20, 30, 40] {
            read(
                &mut page,
                &json!({"name": "new"}),
                second,
                ReadKind::PageToken,
            );
            assert_eq!(page.status, Status::Degraded);
        }
        assert_eq!(value(&page, "name").as_deref(), Some("new"));
        assert_eq!(value(&page, "about").as_deref(), Some("a"));
        read(&mut page, &whole, 50, ReadKind::PageToken);
        assert_eq!(page.status, Status::Active);
    }

    #[test]
    fn a_webhook_after_the_read_is_not_missing_from_it() {
        let mut page = Page::default();
        page.apply_observation(&Observation {
            field: FieldName::parse("name").unwrap(),
            value: CanonicalValue::from_json(&json!("new")),
            stamp: FacebookTime(30_000),
            source: Source::Webhook,
        });
        let outcome = read(&mut page, &json!({}), 20, ReadKind::PageToken);
        assert_eq!(
            (outcome.changes, outcome.needs_second_read),
            (Vec::new(), false)
        );
        assert_eq!(value(&page, "name").as_deref(), Some("new"));
    }
}
