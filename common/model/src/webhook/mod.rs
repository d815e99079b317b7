//! Parses the deliveries of webhooks that Facebook posts.
//!
//! There are two steps, in two processes. [`parse_webhook`] runs in ingress and selects the
//! entries that concern the profile of a Page. [`ProfileEntry::interpret`] runs in the worker and
//! returns the notifications and observations of one entry.
//!
//! Invariants: no input makes either step panic. Every entry is passed on, counted, or rejected
//! together with its bytes. [`parse_webhook`] removes messages, posts and leads from everything
//! that it passes on or rejects.

mod redaction;
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
use crate::webhook_field::{FieldMeaning, meaning_of, metric_label};
use redaction::without_messages;

/// The smallest `entry.time` that is read as milliseconds. A smaller one is in seconds: 10^11
/// seconds is the year 5138.
const FIRST_MILLIS: u64 = 100_000_000_000;
/// How far an `entry.time` may be ahead of this host's clock. A time further ahead is ignored.
const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);

/// How deep a value may be nested. History and answers add levels of their own to a value, and JSON
/// parsers stop at 128 levels.
const MAX_DEPTH: usize = 64;

/// A part of a delivery that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The bytes of the part, without what people wrote.
    pub body: Vec<u8>,
    /// The reason, which describes the shape of the part and never repeats its content.
    pub reason: String,
}

/// The parts of a delivery: the entries that are passed on, the rejected parts, and the counts of
/// the ignored parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParsedWebhook {
    /// The entries that concern the profile of a Page.
    pub entries: Vec<ProfileEntry>,
    /// The parts that cannot be read.
    pub rejected: Vec<Rejected>,
    /// How many parts concern no profile, by metric label. They are not passed on.
    pub ignored: BTreeMap<&'static str, u64>,
    /// The Pages of all entries.
    pub pages: BTreeSet<PageId>,
}

impl ParsedWebhook {
    /// Returns whether the delivery has a part that is not about the profile of a Page.
    pub fn has_unhandled_part(&self) -> bool {
        !self.ignored.is_empty() || !self.rejected.is_empty()
    }

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

/// The values of `object` that are counted under a label of their own. Others are counted as
/// `object.unknown`.
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

/// Parses the body of a delivery whose signature was verified. Never fails: a part that cannot be
/// read is in [`ParsedWebhook::rejected`].
pub fn parse_webhook(body: &[u8]) -> ParsedWebhook {
    let mut delivery = ParsedWebhook::default();
    let reject = |reason: &str| Rejected {
        body: without_messages(body),
        reason: reason.to_owned(),
    };
    let wire: WireBody<'_> = match serde_json::from_slice(body) {
        Ok(wire) => wire,
        Err(error) => {
            let reason = format!(
                "the body is not a webhook in JSON: {}",
                describe_json_error(&error)
            );
            delivery.rejected.push(Rejected {
                body: without_messages(body),
                reason,
            });
            return delivery;
        }
    };
    if wire.object.as_deref() != Some("page") {
        let name = wire.object.as_deref().unwrap_or_default();
        let known = OBJECTS.iter().find(|(object, _)| *object == name);
        delivery.count_ignored(known.map_or("object.unknown", |(_, label)| label), 1);
        return delivery;
    }
    let Some(entry) = wire.entry else {
        delivery.rejected.push(reject("the body has no entry"));
        return delivery;
    };
    let Ok(entries) = serde_json::from_str::<Vec<&RawValue>>(entry.get()) else {
        delivery.rejected.push(reject("entry is not a list"));
        return delivery;
    };
    if entries.is_empty() {
        delivery.count_ignored("entry.none", 1);
    }
    for raw in entries {
        parse_entry(raw, &mut delivery);
    }
    delivery
}

/// Parses one entry and adds it to the part of `delivery` that it belongs to.
fn parse_entry(raw: &RawValue, delivery: &mut ParsedWebhook) {
    let mut reject = |reason: String| {
        delivery.rejected.push(Rejected {
            body: without_messages(raw.get().as_bytes()),
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
    let Some((id, parsed_id)) = wire.id.and_then(|id| Some((id, parse_entry_id(id)?))) else {
        return reject(EntryError::InvalidId.to_string());
    };
    if let EntryId::Page(page) = parsed_id {
        delivery.pages.insert(page);
    }
    let mut profile_changes = Vec::new();
    for change in wire.changes.iter().flatten() {
        match serde_json::from_str::<WireChange<'_>>(change.get()) {
            Ok(change) if meaning_of(&change.field) == FieldMeaning::NotProfile => {
                delivery.count_ignored(metric_label(&change.field), 1);
            }
            Ok(_) => profile_changes.push(Cow::Borrowed(change.get())),
            // The worker stores a change that cannot be read as a dead letter.
            Err(_) => profile_changes.push(redacted(change)),
        }
    }
    let mut profile_fields = Vec::new();
    for field in wire.changed_fields.iter().flatten() {
        match serde_json::from_str::<Cow<'_, str>>(field.get()) {
            Ok(name) if meaning_of(&name) == FieldMeaning::NotProfile => {
                delivery.count_ignored(metric_label(&name), 1);
            }
            Ok(_) => profile_fields.push(Cow::Borrowed(field.get())),
            Err(_) => profile_fields.push(redacted(field)),
        }
    }
    for (name, part) in [("messaging", wire.messaging), ("standby", wire.standby)] {
        if part.is_some() {
            delivery.count_ignored(name, 1);
        }
    }
    if profile_changes.is_empty() && profile_fields.is_empty() {
        let is_filled = |part: Option<&Vec<&RawValue>>| part.is_some_and(|part| !part.is_empty());
        let has_changes =
            is_filled(wire.changes.as_ref()) || is_filled(wire.changed_fields.as_ref());
        if !has_changes && wire.messaging.is_none() && wire.standby.is_none() {
            delivery.count_ignored("entry.empty", 1);
        }
        return;
    }
    let time = wire.time.map_or("null", RawValue::get);
    let entry = format!(
        r#"{{"id":{},"time":{time},"changes":[{}],"changed_fields":[{}]}}"#,
        id.get(),
        profile_changes.join(","),
        profile_fields.join(",")
    );
    delivery.entries.push(ProfileEntry(entry));
}

/// Returns a part that cannot be read, without what people wrote.
fn redacted(part: &RawValue) -> Cow<'static, str> {
    let kept = without_messages(part.get().as_bytes());
    Cow::Owned(String::from_utf8_lossy(&kept).into_owned())
}

/// Describes a JSON error without quoting the text that caused it.
fn describe_json_error(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Data => {
            "a part has the wrong type, is missing or occurs twice"
        }
        serde_json::error::Category::Eof => "it ends too early",
        _ => "it is not JSON",
    };
    format!("{kind}, at line {} column {}", error.line(), error.column())
}

/// The reason why an entry cannot be used at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryError {
    /// The JSON does not have the form of an entry. The text describes the shape, never the
    /// content.
    Unreadable(String),
    /// The `id` is not the id of a Page.
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

/// The `id` of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryId {
    /// The id of the Page that the entry is about.
    Page(PageId),
    /// The id `0` of a test webhook of Facebook's dashboard, or of a probe of pagesync.
    Test,
}

/// Parses the `id` of an entry, which Facebook writes as a string or as a number.
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

/// One entry as JSON text, reduced to the changes that concern a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileEntry(String);

/// The meaning of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryMeaning {
    /// The Page that the entry is about.
    pub id: EntryId,
    /// The values that the entry carries.
    pub observations: Vec<Observation>,
    /// The tracked fields that changed, with or without a value.
    pub notified_fields: BTreeSet<FieldName>,
    /// When Facebook sent the entry, on Facebook's clock. `None` if its `time` is missing, invalid
    /// or too far ahead of this host's clock.
    pub sent_at: Option<FacebookTime>,
    /// How far the `time` of the entry is ahead of this host's clock; `None` if that is plausible.
    /// Either clock may be wrong.
    pub ahead_by: Option<Duration>,
    /// How many changes do not concern a tracked field, by the Graph field that changed, or by the
    /// metric label of the webhook field if it is not about the profile.
    pub ignored_fields: BTreeMap<&'static str, u64>,
    /// The problem of each part that cannot be read. It describes the shape of the part.
    pub problems: Vec<String>,
}

/// The prefix of the value of a probe, which the nonce follows.
pub const PROBE_PREFIX: &str = "pagesync-probe-";
/// The prefix of the value of a probe of forwarding, which the nonce follows. Its webhook field is unknown, so
/// it is forwarded.
pub const FORWARD_PROBE_PREFIX: &str = "pagesync-forward-probe-";

/// Returns the nonce if a body of a delivery is a probe of forwarding, and `None` otherwise.
pub fn forward_probe_nonce(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    nonce_in(body.pointer("/entry/0")?, FORWARD_PROBE_PREFIX)
}

/// Returns the nonce after `prefix` in the first value of an entry with the id `0`.
fn nonce_in(entry: &Value, prefix: &str) -> Option<String> {
    let value = entry.pointer("/changes/0/value")?.as_str()?;
    let nonce = value.strip_prefix(prefix).filter(|_| entry["id"] == "0")?;
    let is_nonce_char = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    ((16..=64).contains(&nonce.len()) && nonce.chars().all(is_nonce_char)).then(|| nonce.to_owned())
}

impl ProfileEntry {
    /// Returns the nonce if the entry is a probe of pagesync, and `None` otherwise. A probe has the
    /// id `0` and one value: [`PROBE_PREFIX`] and 16 to 64 letters, digits, `_` and `-`.
    pub fn probe_nonce(&self) -> Option<String> {
        let entry: Value = serde_json::from_str(&self.0).ok()?;
        nonce_in(&entry, PROBE_PREFIX)
    }

    /// Creates an entry from the JSON that a queued job carries.
    pub fn from_raw(raw: &RawValue) -> Self {
        Self(raw.get().to_owned())
    }

    /// Returns the JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the meaning of the entry for the `tracked` fields. `received_at` is when the
    /// delivery arrived, on this host's clock. Returns an error if the entry cannot be used at all.
    pub fn interpret(
        &self,
        received_at: HostTime,
        tracked: &TrackedFields,
    ) -> Result<EntryMeaning, EntryError> {
        let wire: WireEntry<'_> = serde_json::from_str(&self.0)
            .map_err(|error| EntryError::Unreadable(describe_json_error(&error)))?;
        let id = wire
            .id
            .and_then(parse_entry_id)
            .ok_or(EntryError::InvalidId)?;
        let time = wire.time.and_then(parse_entry_time);
        let is_plausible = |time: FacebookTime| time.ahead_of(received_at) <= MAX_AHEAD;
        let mut meaning = EntryMeaning {
            id,
            observations: Vec::new(),
            notified_fields: BTreeSet::new(),
            sent_at: time.filter(|time| is_plausible(*time)),
            ahead_by: time
                .filter(|time| !is_plausible(*time))
                .map(|time| time.ahead_of(received_at)),
            ignored_fields: BTreeMap::new(),
            problems: Vec::new(),
        };
        for change in wire.changes.iter().flatten() {
            match serde_json::from_str::<WireChange<'_>>(change.get()) {
                Ok(WireChange { field, value }) => meaning.add_change(&field, value, tracked),
                Err(error) => meaning.problems.push(format!(
                    "a change cannot be read: {}",
                    describe_json_error(&error)
                )),
            }
        }
        for field in wire.changed_fields.iter().flatten() {
            match serde_json::from_str::<Cow<'_, str>>(field.get()) {
                Ok(field) => meaning.add_change(&field, None, tracked),
                Err(error) => meaning.problems.push(format!(
                    "a changed field cannot be read: {}",
                    describe_json_error(&error)
                )),
            }
        }
        Ok(meaning)
    }
}

impl EntryMeaning {
    /// Adds the statement of the entry that `webhook_field` changed, with its new value if the
    /// entry carries one.
    fn add_change(
        &mut self,
        webhook_field: &str,
        value: Option<&RawValue>,
        tracked: &TrackedFields,
    ) {
        let (name, value) = match meaning_of(webhook_field) {
            FieldMeaning::ChangedWithValue(name) => (name, value),
            FieldMeaning::ChangedWithoutValue(name) => (name, None),
            FieldMeaning::NotProfile => {
                *self
                    .ignored_fields
                    .entry(metric_label(webhook_field))
                    .or_default() += 1;
                return;
            }
        };
        let Some(field) = FieldName::parse(name).filter(|field| tracked.contains(field)) else {
            *self.ignored_fields.entry(name).or_default() += 1;
            return;
        };
        self.notified_fields.insert(field.clone());
        let (Some(value), Some(stamp)) = (value, self.sent_at) else {
            return;
        };
        match serde_json::from_str::<Value>(value.get()) {
            Ok(value) if depth(&value) > MAX_DEPTH => {
                let problem =
                    format!("the value of {name} is nested more than {MAX_DEPTH} levels deep");
                self.problems.push(problem);
            }
            // Null gives no observation: only a read clears a field.
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

/// Returns how deep arrays and objects are nested in `value`, or zero for a scalar.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Parses the `time` of an entry, in seconds or milliseconds. Returns `None` unless it is a
/// positive whole number.
fn parse_entry_time(raw: &RawValue) -> Option<FacebookTime> {
    let number: u64 = raw.get().parse().ok().filter(|number| *number > 0)?;
    Some(if number < FIRST_MILLIS {
        FacebookTime(number * 1000)
    } else {
        FacebookTime(number)
    })
}
