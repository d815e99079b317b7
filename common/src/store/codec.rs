//! Encodes a Page as flat attributes and decodes it.
//!
//! Each field is one attribute with its value as plain text, which any client of the store can
//! read. The names of all other attributes begin with `_`. `_registers` contains the stamp and
//! source of each field, those of its origin, and the form of the text: `s` string, `j` JSON, `c`
//! truncated string, `n` null. It does not repeat the value.
//!
//! Invariant: [`decode`] returns the Page that was given to [`encode`], except that an erased Page
//! has only its status and the time of the erasure request. A damaged attribute is an error, with
//! three exceptions: damaged announcements start empty, and a damaged failure or erasure time is left
//! out.

use std::collections::{BTreeMap, BTreeSet};

use model::field::FieldName;
use model::page::{Origin, Page, Register, Source, Status, UnknownStatus};
use model::polling::Polling;
use model::time::{FacebookTime, HostTime};
use model::value::CanonicalValue;
use serde::{Deserialize, Serialize};

use super::error::StoreError;

/// The attribute with the status of the Page.
pub const STATUS: &str = "_status";
/// The attribute with the stamps and sources of the fields.
pub const REGISTERS: &str = "_registers";
/// The attribute with the poll state, from which the due time is computed.
pub const POLLING: &str = "_polling";
/// The attribute with the people whose connections give access to the Page.
pub const CONNECTIONS: &str = "_connections";
/// The attribute with the client for whom the Page was connected.
pub const CLIENT: &str = "_client";
/// The attribute with the fields that have a stored value and that the last read requested and did
/// not return.
pub const MISSING_FIELDS: &str = "_missing_fields";
/// The attribute with open notifications and unannounced changes.
pub const ANNOUNCEMENTS: &str = "_announcements";
/// The attribute with the last failed attempt to read the Page.
pub const LAST_FAILURE: &str = "_last_failure";
/// The attribute with the time of the request that erased the Page, on this host's clock.
pub const ERASURE_REQUESTED_AT: &str = "_erasure_requested_at";
/// The attribute with the version. [`encode`] does not write it, because the store maintains it.
pub const VERSION: &str = "_version";

/// The attributes of a Page: texts by name.
pub type Attributes = BTreeMap<String, String>;

/// A register without its value: stamp, source, stamp and source of the origin, form of the text.
#[derive(Serialize, Deserialize)]
struct PackedRegister(FacebookTime, Source, FacebookTime, Source, Form);

/// How the text of a field represents its value.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Form {
    /// The text is the string.
    #[serde(rename = "s")]
    String,
    /// The text is JSON.
    #[serde(rename = "j")]
    Json,
    /// The text is the beginning of the string.
    #[serde(rename = "c")]
    TruncatedString,
    /// The value is null, and there is no text.
    #[serde(rename = "n")]
    Null,
}

/// The reason why attributes cannot be decoded. It contains no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

impl From<String> for DecodeError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Returns the attributes of a Page, without its version.
pub fn encode(page: &Page) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert(STATUS.to_owned(), page.status.to_string());
    if page.status == Status::Erased {
        let at = page
            .erasure_requested_at
            .map(|at| (ERASURE_REQUESTED_AT.to_owned(), at.to_string()));
        attributes.extend(at);
        return attributes;
    }
    let mut registers = BTreeMap::new();
    for (
        field,
        Register {
            stamp,
            source,
            value,
            origin,
        },
    ) in &page.registers
    {
        let form = match value {
            None => Form::Null,
            Some(value) if value.is_truncated() => Form::TruncatedString,
            Some(value) if value.is_string() => Form::String,
            Some(_) => Form::Json,
        };
        registers.insert(
            field,
            PackedRegister(*stamp, *source, origin.stamp, origin.source, form),
        );
        if let Some(value) = value {
            attributes.insert(field.to_string(), value.to_plain_text());
        }
    }
    attributes.insert(REGISTERS.to_owned(), to_json(&registers));
    attributes.insert(POLLING.to_owned(), to_json(&page.polling));
    if !page.connections.is_empty() {
        attributes.insert(CONNECTIONS.to_owned(), to_json(&page.connections));
    }
    if let Some(client) = &page.client {
        attributes.insert(CLIENT.to_owned(), client.clone());
    }
    if !page.missing_fields.is_empty() {
        attributes.insert(MISSING_FIELDS.to_owned(), to_json(&page.missing_fields));
    }
    if !page.announcements.is_empty() {
        attributes.insert(ANNOUNCEMENTS.to_owned(), to_json(&page.announcements));
    }
    if let Some(failure) = &page.last_failure {
        attributes.insert(LAST_FAILURE.to_owned(), to_json(failure));
    }
    attributes
}

/// Returns the Page with these attributes. Fails if an attribute is missing or cannot be read.
pub fn decode(attributes: &Attributes) -> Result<Page, DecodeError> {
    let attribute = |name: &str| {
        attributes
            .get(name)
            .ok_or_else(|| format!("{name} is missing"))
    };
    let status: Status = attribute(STATUS)?
        .parse()
        .map_err(|error: UnknownStatus| DecodeError(error.to_string()))?;
    if status == Status::Erased {
        let at = attributes.get(ERASURE_REQUESTED_AT);
        return Ok(Page {
            status,
            erasure_requested_at: at.and_then(|at| at.parse().ok()).map(HostTime),
            ..Page::default()
        });
    }
    let unreadable =
        |name: &str, error: serde_json::Error| format!("{name} cannot be read: {error}");
    let packed: BTreeMap<FieldName, PackedRegister> =
        serde_json::from_str(attribute(REGISTERS)?)
            .map_err(|error| unreadable(REGISTERS, error))?;
    let polling: Polling =
        serde_json::from_str(attribute(POLLING)?).map_err(|error| unreadable(POLLING, error))?;
    let connections = to_set(attributes, CONNECTIONS)?;
    let missing_fields = to_set(attributes, MISSING_FIELDS)?;
    let announcements = attributes.get(ANNOUNCEMENTS).map_or("{}", String::as_str);
    // Announcements are not part of the merged state, so an error in them does not make the Page
    // corrupt.
    let announcements = serde_json::from_str(announcements).unwrap_or_else(|error| {
        tracing::error!(error = %error, "the announcements of a Page cannot be read; they start empty");
        model::announcements::Announcements::new()
    });
    let mut registers = BTreeMap::new();
    for (field, PackedRegister(stamp, source, origin_stamp, origin_source, form)) in packed {
        let text = || attribute(field.as_str());
        let value = match form {
            Form::Null => None,
            Form::String => Some(CanonicalValue::from_stored_text(text()?, true, false)),
            Form::TruncatedString => Some(CanonicalValue::from_stored_text(text()?, true, true)),
            Form::Json => Some(CanonicalValue::from_stored_text(text()?, false, false)),
        };
        let value = value
            .transpose()
            .map_err(|error| unreadable(field.as_str(), error))?;
        let origin = Origin {
            stamp: origin_stamp,
            source: origin_source,
        };
        registers.insert(
            field,
            Register {
                stamp,
                source,
                value,
                origin,
            },
        );
    }
    Ok(Page {
        status,
        registers,
        polling,
        connections,
        client: attributes.get(CLIENT).cloned(),
        missing_fields,
        announcements,
        last_failure: attributes
            .get(LAST_FAILURE)
            .and_then(|text| serde_json::from_str(text).ok()),
        erasure_requested_at: None,
    })
}

/// Decodes a set. It is empty if the attribute does not exist, because empty sets are not stored.
fn to_set<T: Ord + serde::de::DeserializeOwned>(
    attributes: &Attributes,
    name: &str,
) -> Result<BTreeSet<T>, String> {
    let text = attributes.get(name).map_or("[]", String::as_str);
    serde_json::from_str(text).map_err(|error| format!("{name} cannot be read: {error}"))
}

/// Returns a value as JSON text, as the stores write it.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("plain data encodes: {error}"))
}

/// Parses JSON text that a store contains. Fails with [`StoreError::Unexpected`].
pub(super) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Unexpected(describe_error(&error)))
}

/// Describes a decoding error without the value that caused it.
pub fn describe_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // These two name only a field of a type of this build.
    if text.starts_with("missing field") || text.starts_with("duplicate field") {
        return text;
    }
    let end = text.find(['"', '`']).unwrap_or(text.len());
    let what = text[..end].trim_end();
    match text.rfind(", expected").filter(|at| *at > end) {
        Some(expected) => format!("{what}{}", &text[expected..]),
        None => what.to_owned(),
    }
}

/// Parses the body of a record. A text that is not JSON becomes a JSON string, which is the form of
/// no record.
pub(super) fn record_body(text: String) -> serde_json::Value {
    serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::page::Observation;
    use serde_json::json;

    fn page() -> Page {
        let mut page = Page::default();
        let long = json!("ä".repeat(9000));
        for (i, value) in [
            json!("plain"),
            json!({"a": [1, 2.5]}),
            json!(null),
            json!("17"),
            json!(17),
            long,
        ]
        .iter()
        .enumerate()
        {
            page.apply_observation(&Observation {
                field: FieldName::parse(&format!("f{i}")).unwrap(),
                value: CanonicalValue::from_json(value),
                stamp: FacebookTime(1000 + i as u64),
                source: Source::Webhook,
            });
        }
        page.connections
            .insert(model::id::UserId::parse("77").unwrap());
        page.missing_fields
            .insert(FieldName::parse("phone").unwrap());
        page.client = Some("acme".to_owned());
        page.last_failure = Some(model::failure::Failure {
            at: HostTime(9),
            reason: "r".to_owned(),
            remedy: "f".to_owned(),
            reported: Some(model::failure::ReportedError::default()),
        });
        page.apply_webhook(&FieldName::parse("f0").unwrap(), Some(FacebookTime(7)), &[]);
        page.polling.record_notification(
            Some(FacebookTime(5)),
            HostTime(6),
            std::time::Duration::from_secs(10),
        );
        page
    }

    #[test]
    fn decoding_the_attributes_of_a_page_returns_the_same_page() {
        let page = page();
        let attributes = encode(&page);
        assert_eq!(attributes["f0"], "plain");
        assert_eq!(decode(&attributes), Ok(page));
    }

    #[test]
    fn the_fields_of_an_erased_page_are_not_stored() {
        let page = Page {
            status: Status::Erased,
            ..page()
        };
        assert_eq!(encode(&page).len(), 1);
        assert_eq!(decode(&encode(&page)).unwrap().status, Status::Erased);
    }

    #[test]
    fn a_damaged_or_missing_attribute_is_named_in_the_error() {
        for (name, text, expected) in [
            (REGISTERS, "{", "_registers cannot be read"),
            (STATUS, "wrong", "unknown status of 5 bytes"),
            ("f1", "{", "f1 cannot be read"),
        ] {
            let mut attributes = encode(&page());
            attributes.insert(name.to_owned(), text.to_owned());
            let error = decode(&attributes).unwrap_err().0;
            assert!(error.contains(expected), "{error}");
        }
        let mut attributes = encode(&page());
        attributes.remove("f0");
        assert_eq!(decode(&attributes).unwrap_err().0, "f0 is missing");
    }
}
