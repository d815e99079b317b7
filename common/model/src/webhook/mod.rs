//! What Facebook posts to the callback: bytes -> entries that concern a profile -> observations.
//!
//! Two steps, two processes. [`intake`] runs in ingress and decides only what to keep; [`RawEntry::read`]
//! runs in the worker and decides what it means.
//!
//! Invariants: both are total over any bytes; every entry is kept, counted, or reported unreadable
//! with its bytes; nothing a person wrote (messages, posts, leads) survives [`intake`].

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::field::{FieldName, TrackedFields};
use crate::id::PageId;
use crate::page::{Observation, Source};
use crate::time::{FacebookTime, HostTime};
use crate::value::CanonicalValue;
use crate::webhook_field::{Announces, announces, metric_label};

/// `entry.time` above this is milliseconds, below it seconds (10^11 seconds is the year 5138).
const FIRST_MILLIS: u64 = 100_000_000_000;
/// An `entry.time` further ahead of our clock than this is not believed.
const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);

/// A value nested deeper than this is not kept: what holds it later (history, answers) adds levels
/// of its own, and JSON readers stop at 128.
const MAX_DEPTH: usize = 64;

/// Something signed that could not be read, and why: the shape, never the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its bytes.
    pub body: Vec<u8>,
    /// What is wrong.
    pub reason: String,
}

/// What a webhook body holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParsedDelivery {
    /// Entries that say something about a profile.
    pub entries: Vec<ProfileEntry>,
    /// Parts that could not be read.
    pub rejected: Vec<Rejected>,
    /// Parts that are understood and not kept, by name.
    pub ignored: BTreeMap<&'static str, u64>,
}

impl ParsedDelivery {
    fn count_ignored(&mut self, name: &'static str, n: u64) {
        *self.ignored.entry(name).or_default() += n;
    }
}

#[derive(Deserialize)]
struct WireBody<'a> {
    #[serde(borrow)]
    object: Option<Cow<'a, str>>,
    #[serde(borrow)]
    entry: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireEntry<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    #[serde(borrow)]
    changes: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    changed_fields: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    messaging: Option<&'a RawValue>,
    #[serde(borrow)]
    standby: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireChange<'a> {
    #[serde(borrow)]
    field: Cow<'a, str>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// The object names that are counted under their own name; others count as `object.unknown`.
const OBJECTS: [(&str, &str); 7] = [
    ("user", "object.user"),
    ("permissions", "object.permissions"),
    ("payments", "object.payments"),
    ("instagram", "object.instagram"),
    (
        "whatsapp_business_account",
        "object.whatsapp_business_account",
    ),
    ("application", "object.application"),
    ("group", "object.group"),
];

/// Sorts out a webhook body whose signature was good.
pub fn parse_delivery(body: &[u8]) -> ParsedDelivery {
    let mut intake = ParsedDelivery::default();
    let reject = |reason: &str| Rejected {
        body: body.to_vec(),
        reason: reason.to_owned(),
    };
    let wire: WireBody<'_> = match serde_json::from_slice(body) {
        Ok(wire) => wire,
        Err(error) => {
            let reason = format!(
                "the body is not a webhook in JSON: {}",
                describe_json_error(&error)
            );
            intake.rejected.push(Rejected {
                body: body.to_vec(),
                reason,
            });
            return intake;
        }
    };
    if wire.object.as_deref() != Some("page") {
        let name = wire.object.as_deref().unwrap_or_default();
        let known = OBJECTS.iter().find(|(object, _)| *object == name);
        intake.count_ignored(known.map_or("object.unknown", |(_, label)| label), 1);
        return intake;
    }
    let Some(entry) = wire.entry else {
        intake.rejected.push(reject("the body has no entry"));
        return intake;
    };
    let Ok(entries) = serde_json::from_str::<Vec<&RawValue>>(entry.get()) else {
        intake.rejected.push(reject("entry is not a list"));
        return intake;
    };
    if entries.is_empty() {
        intake.count_ignored("entry.none", 1);
    }
    for raw in entries {
        parse_entry(raw, &mut intake);
    }
    intake
}

fn parse_entry(raw: &RawValue, intake: &mut ParsedDelivery) {
    let mut reject = |reason: String| {
        intake.rejected.push(Rejected {
            body: raw.get().as_bytes().to_vec(),
            reason,
        });
    };
    let wire: WireEntry<'_> = match serde_json::from_str(raw.get()) {
        Ok(wire) => wire,
        Err(error) => {
            return reject(format!(
                "an entry cannot be read: {}",
                describe_json_error(&error)
            ));
        }
    };
    let Some(id) = wire.id.filter(|id| parse_entry_id(id).is_some()) else {
        return reject(EntryError::InvalidId.to_string());
    };
    let mut kept_changes = Vec::new();
    for change in wire.changes.iter().flatten() {
        match serde_json::from_str::<WireChange<'_>>(change.get()) {
            Ok(change) if announces(&change.field) == Announces::NotProfile => {
                intake.count_ignored(metric_label(&change.field), 1);
            }
            // What cannot be read goes to the worker too: it keeps it as a dead letter.
            _ => kept_changes.push(change.get()),
        }
    }
    let mut kept_fields = Vec::new();
    for field in wire.changed_fields.iter().flatten() {
        match serde_json::from_str::<Cow<'_, str>>(field.get()) {
            Ok(name) if announces(&name) == Announces::NotProfile => {
                intake.count_ignored(metric_label(&name), 1)
            }
            _ => kept_fields.push(field.get()),
        }
    }
    for (name, part) in [("messaging", wire.messaging), ("standby", wire.standby)] {
        if part.is_some() {
            intake.count_ignored(name, 1);
        }
    }
    if kept_changes.is_empty() && kept_fields.is_empty() {
        let has = |part: Option<&Vec<&RawValue>>| part.is_some_and(|part| !part.is_empty());
        let says_something = has(wire.changes.as_ref()) || has(wire.changed_fields.as_ref());
        if !says_something && wire.messaging.is_none() && wire.standby.is_none() {
            intake.count_ignored("entry.empty", 1);
        }
        return;
    }
    let time = wire.time.map_or("null", RawValue::get);
    let kept = format!(
        r#"{{"id":{},"time":{time},"changes":[{}],"changed_fields":[{}]}}"#,
        id.get(),
        kept_changes.join(","),
        kept_fields.join(",")
    );
    intake.entries.push(ProfileEntry(kept));
}

/// What a JSON error says without the text it is about.
fn describe_json_error(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Data => {
            "a part has the wrong type, is missing or is there twice"
        }
        serde_json::error::Category::Eof => "it ends too early",
        _ => "it is not JSON",
    };
    format!("{kind}, at line {} column {}", error.line(), error.column())
}

/// Why nothing of an entry can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryError {
    /// It does not have the form of an entry; the text says where and how, never its content.
    Unreadable(String),
    /// Its `id` is not the id of a Page.
    InvalidId,
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(shape) => write!(f, "an entry cannot be read: {shape}"),
            Self::InvalidId => f.write_str("the id of an entry is not a Page id"),
        }
    }
}

impl std::error::Error for EntryError {}

/// Whose entry it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryId {
    /// A Page's.
    Page(PageId),
    /// Nobody's: Facebook's dashboard test and our own probe send id `0`.
    Test,
}

fn parse_entry_id(raw: &RawValue) -> Option<EntryId> {
    let text = raw.get();
    let digits: Cow<'_, str> = if text.starts_with('"') {
        serde_json::from_str(text).ok()?
    } else {
        Cow::Borrowed(text)
    };
    if digits == "0" {
        return Some(EntryId::Test);
    }
    PageId::parse(&digits).ok().map(EntryId::Page)
}

/// One entry, cut down to what concerns a profile, as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileEntry(String);

/// What one entry means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryMeaning {
    /// Whose it is.
    pub id: EntryId,
    /// Values it carries.
    pub observations: Vec<Observation>,
    /// What was announced of what is tracked, with or without a value.
    pub notified_fields: BTreeSet<FieldName>,
    /// Its `entry.time` on Facebook's clock; `None` if missing, unreadable or too far ahead.
    pub sent_at: Option<FacebookTime>,
    /// How far ahead of our clock its `entry.time` is, if too far to be believed. Either clock may
    /// be wrong.
    pub ahead_by: Option<Duration>,
    /// Webhook fields that map to a field nobody tracks, by name.
    pub untracked: BTreeMap<&'static str, u64>,
    /// Parts that could not be read: their shape.
    pub problems: Vec<String>,
}

/// What the value of a probe begins with; the nonce follows.
pub const PROBE_PREFIX: &str = "pagesync-probe-";

impl ProfileEntry {
    /// The nonce of our own probe, if this is one: a change of `name` of the id `0`.
    pub fn probe_nonce(&self) -> Option<String> {
        let entry: Value = serde_json::from_str(&self.0).ok()?;
        let value = entry.pointer("/changes/0/value")?.as_str()?;
        let nonce = value
            .strip_prefix(PROBE_PREFIX)
            .filter(|_| entry["id"] == "0")?;
        let harmless = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        ((16..=64).contains(&nonce.len()) && nonce.chars().all(harmless)).then(|| nonce.to_owned())
    }

    /// Takes an entry back from a queue.
    pub fn from_raw(raw: &RawValue) -> Self {
        Self(raw.get().to_owned())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the entry means, given when we received it and what is tracked. An error means that
    /// nothing of it can be used.
    pub fn interpret(
        &self,
        received: HostTime,
        tracked: &TrackedFields,
    ) -> Result<EntryMeaning, EntryError> {
        let wire: WireEntry<'_> = serde_json::from_str(&self.0)
            .map_err(|error| EntryError::Unreadable(describe_json_error(&error)))?;
        let id = wire
            .id
            .and_then(parse_entry_id)
            .ok_or(EntryError::InvalidId)?;
        let time = wire.time.and_then(parse_entry_time);
        let believed = |time: FacebookTime| time.ahead_of(received) <= MAX_AHEAD;
        let mut reading = EntryMeaning {
            id,
            observations: Vec::new(),
            notified_fields: BTreeSet::new(),
            sent_at: time.filter(|time| believed(*time)),
            ahead_by: time
                .filter(|time| !believed(*time))
                .map(|time| time.ahead_of(received)),
            untracked: BTreeMap::new(),
            problems: Vec::new(),
        };
        for change in wire.changes.iter().flatten() {
            match serde_json::from_str::<WireChange<'_>>(change.get()) {
                Ok(WireChange { field, value }) => reading.add_field(&field, value, tracked),
                Err(error) => reading.problems.push(format!(
                    "a change cannot be read: {}",
                    describe_json_error(&error)
                )),
            }
        }
        for field in wire.changed_fields.iter().flatten() {
            match serde_json::from_str::<Cow<'_, str>>(field.get()) {
                Ok(field) => reading.add_field(&field, None, tracked),
                Err(error) => reading.problems.push(format!(
                    "a changed field cannot be read: {}",
                    describe_json_error(&error)
                )),
            }
        }
        Ok(reading)
    }
}

impl EntryMeaning {
    fn add_field(
        &mut self,
        webhook_field: &str,
        value: Option<&RawValue>,
        tracked: &TrackedFields,
    ) {
        let (name, value) = match announces(webhook_field) {
            Announces::Value(name) => (name, value),
            Announces::Hint(name) => (name, None),
            Announces::NotProfile => {
                *self
                    .untracked
                    .entry(metric_label(webhook_field))
                    .or_default() += 1;
                return;
            }
        };
        let Some(field) = FieldName::parse(name).filter(|field| tracked.contains(field)) else {
            *self.untracked.entry(name).or_default() += 1;
            return;
        };
        self.notified_fields.insert(field.clone());
        let (Some(value), Some(stamp)) = (value, self.sent_at) else {
            return;
        };
        match serde_json::from_str::<Value>(value.get()) {
            Ok(value) if depth(&value) > MAX_DEPTH => {
                let problem = format!("the value of {name} is nested more than {MAX_DEPTH} deep");
                self.problems.push(problem);
            }
            // A webhook never clears a field: an absent value only asks for a read.
            Ok(value) => self
                .observations
                .extend(CanonicalValue::from_json(&value).map(|value| Observation {
                    field,
                    value: Some(value),
                    stamp,
                    source: Source::Webhook,
                })),
            Err(error) => self.problems.push(format!(
                "the value of {name} cannot be read: {}",
                describe_json_error(&error)
            )),
        }
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn parse_entry_time(raw: &RawValue) -> Option<FacebookTime> {
    let number: u64 = raw.get().parse().ok().filter(|number| *number > 0)?;
    Some(if number < FIRST_MILLIS {
        FacebookTime(number * 1000)
    } else {
        FacebookTime(number)
    })
}
