//! Reads of Facebook: when one happened, and what it says of a Page.
//!
//! Invariant: a read's stamp is never later than the instant Facebook answered it, on Facebook's
//! clock; ours is used only to see whether Facebook's is plausible. A value is never cleared because
//! one answer left it out.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::drift::Finding;
use crate::field::FieldName;
use crate::page::{Change, Observation, Page, Source, Status};
use crate::time::Millis;
use crate::value::Canonical;

/// So many known fields missing at once is an outage or a lost permission, not the owner.
pub const DEGRADED_FROM: usize = 3;
/// A `Date` further ahead of us than this is not believed.
const AHEAD: Duration = Duration::from_secs(24 * 3600);
/// An answer that lay in a cache longer than this says nothing about now.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Why an answer has no stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoStamp {
    /// More than 24 h ahead of us.
    Ahead,
    /// From a cache, more than an hour old.
    Old,
}

/// The lower bound of the instant an answer was made: its `Date` less its `Age` less the time the
/// request took, to the second below. `now` is our clock.
pub fn stamp(date: Millis, age: Duration, took: Duration, now: Millis) -> Result<Millis, NoStamp> {
    if date > now.plus(AHEAD) {
        return Err(NoStamp::Ahead);
    }
    if age > MAX_AGE {
        return Err(NoStamp::Old);
    }
    let before = u64::try_from((age + took).as_millis()).unwrap_or(u64::MAX);
    let at = date.0.saturating_sub(before);
    Ok(Millis(at - at % 1000))
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// `/me/accounts`: many Pages at once.
    Bulk,
    /// The Page's own token.
    Own,
}

/// A complete answer about one Page.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a> {
    /// Which fields were asked for.
    pub asked: &'a [FieldName],
    /// The object that came back.
    pub object: &'a Map<String, Value>,
    /// See [`stamp`].
    pub stamp: Millis,
    /// Who asked.
    pub reader: Reader,
    /// Our clock, for the grace of the drift meter.
    pub now: Millis,
}

/// What a read did to a Page.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What a reader of the Page sees change.
    pub changes: Vec<Change>,
    /// What the drift meter found.
    pub findings: Vec<Finding>,
    /// A known field is missing: only a second read, with the Page's own token, may clear it.
    pub wants_another: bool,
}

impl Page {
    /// Takes a complete answer into account.
    ///
    /// Facebook leaves out what has no value, and also what the token may not see. So a known value
    /// that is missing is cleared only by a read with the Page's own token that agrees with the read
    /// before it; [`DEGRADED_FROM`] of them at once clear nothing.
    pub fn read(&mut self, read: &Read<'_>) -> Outcome {
        let present = |field: &FieldName| read.object.get(field.as_str()).filter(|v| !v.is_null());
        let vanished: Vec<FieldName> = read
            .asked
            .iter()
            .filter(|field| present(field).is_none() && self.knew(field, read.stamp))
            .cloned()
            .collect();
        let degraded = vanished.len() >= DEGRADED_FROM;
        let mut outcome = Outcome::default();
        for field in read.asked {
            if vanished.contains(field) {
                let agreed = read.reader == Reader::Own && self.absent.contains(field);
                if degraded || !agreed {
                    self.absent.insert(field.clone());
                    outcome.wants_another |= !degraded;
                    continue;
                }
            }
            self.absent.remove(field);
            let seen = Observation {
                field: field.clone(),
                value: present(field).and_then(Canonical::of),
                stamp: read.stamp,
                source: Source::Poll,
            };
            let last = self.last_read(field);
            let held = self.registers.get(field);
            let webhook = held.filter(|held| held.source == Source::Webhook);
            let webhook = webhook.map(|held| held.stamp);
            let change = self.observe(&seen);
            let before = (last, webhook, change.is_some());
            let found = self.judge(field, before, read.stamp, read.now);
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
    fn knew(&self, field: &FieldName, stamp: Millis) -> bool {
        let held = self.registers.get(field);
        held.is_some_and(|held| held.value.is_some() && held.stamp < stamp)
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

    fn read(page: &mut Page, object: &Value, second: u64, reader: Reader) -> Outcome {
        let asked = fields(&["about", "name", "phone", "website"]);
        page.read(&Read {
            asked: &asked,
            object: object.as_object().unwrap(),
            stamp: Millis(second * 1000),
            reader,
            now: Millis(second * 1000),
        })
    }

    fn value(page: &Page, field: &str) -> Option<String> {
        let field = FieldName::parse(field).unwrap();
        page.registers
            .get(&field)?
            .value
            .as_ref()
            .map(Canonical::plain)
    }

    #[test]
    fn a_stamp_is_date_less_age_less_the_time_it_took() {
        let now = Millis(1_000_000);
        let at = |date, age, took: u64| stamp(Millis(date), age, Duration::from_millis(took), now);
        assert_eq!(at(900_000, SECOND, 1), Ok(Millis(898_000)));
        assert_eq!(at(900_000, Duration::ZERO, 0), Ok(Millis(900_000)));
        assert_eq!(at(900_000, Duration::ZERO, 1500), Ok(Millis(898_000)));
        assert_eq!(at(900_000, 3601 * SECOND, 0), Err(NoStamp::Old));
        assert_eq!(at(now.0 + 86_401_000, SECOND, 0), Err(NoStamp::Ahead));
        assert_eq!(at(500, SECOND, 0), Ok(Millis(0)), "no underflow");
    }

    #[test]
    fn what_was_never_known_is_null_at_once() {
        let mut page = Page::default();
        let outcome = read(&mut page, &json!({"name": "n"}), 10, Reader::Bulk);
        assert_eq!(outcome.changes.len(), 1);
        assert_eq!(page.registers.len(), 4, "every field asked for has a proof");
        assert_eq!(value(&page, "phone"), None);
        assert!(!outcome.wants_another);
    }

    #[test]
    fn a_known_value_is_cleared_by_the_second_read_of_the_pages_own_token() {
        let mut page = Page::default();
        read(
            &mut page,
            &json!({"name": "n", "phone": "1"}),
            10,
            Reader::Bulk,
        );
        for reader in [Reader::Bulk, Reader::Bulk] {
            let outcome = read(&mut page, &json!({"name": "n"}), 20, reader);
            assert!(outcome.wants_another);
            assert_eq!(value(&page, "phone").as_deref(), Some("1"));
        }
        let outcome = read(&mut page, &json!({"name": "n"}), 90, Reader::Own);
        assert_eq!((outcome.changes.len(), outcome.wants_another), (1, false));
        assert_eq!(value(&page, "phone"), None);
        assert!(page.absent.is_empty());
    }

    #[test]
    fn a_field_that_comes_back_begins_anew() {
        let mut page = Page::default();
        let both = json!({"name": "n", "phone": "1"});
        read(&mut page, &both, 10, Reader::Own);
        read(&mut page, &json!({"name": "n"}), 20, Reader::Own);
        read(&mut page, &both, 30, Reader::Own);
        assert!(read(&mut page, &json!({"name": "n"}), 40, Reader::Own).wants_another);
        assert_eq!(value(&page, "phone").as_deref(), Some("1"));
    }

    #[test]
    fn three_fields_gone_at_once_are_an_outage() {
        let mut page = Page::default();
        let whole = json!({"name": "n", "phone": "1", "about": "a", "website": "w"});
        read(&mut page, &whole, 10, Reader::Own);
        for second in [20, 30, 40] {
            read(&mut page, &json!({"name": "new"}), second, Reader::Own);
            assert_eq!(page.status, Status::Degraded);
        }
        assert_eq!(value(&page, "name").as_deref(), Some("new"));
        assert_eq!(value(&page, "about").as_deref(), Some("a"));
        read(&mut page, &whole, 50, Reader::Own);
        assert_eq!(page.status, Status::Active);
    }

    #[test]
    fn a_webhook_after_the_read_is_not_missing_from_it() {
        let mut page = Page::default();
        page.observe(&Observation {
            field: FieldName::parse("name").unwrap(),
            value: Canonical::of(&json!("new")),
            stamp: Millis(30_000),
            source: Source::Webhook,
        });
        let outcome = read(&mut page, &json!({}), 20, Reader::Own);
        assert_eq!(
            (outcome.changes, outcome.wants_another),
            (Vec::new(), false)
        );
        assert_eq!(value(&page, "name").as_deref(), Some("new"));
    }
}
