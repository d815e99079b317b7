//! A Page as flat attributes: one plain text per field, which any client can read, and a few
//! attributes of ours that begin with `_`.
//!
//! `_registers` holds per field stamp, source, first stamp, first source and the form of the text
//! (`s` string, `j` JSON, `c` cut string, `n` null); never the value again. Invariant: [`decode`]
//! of [`encode`] is the same Page; anything else is an error, never a guess.

use std::collections::{BTreeMap, BTreeSet};

use model::field::FieldName;
use model::id::Subject;
use model::page::{Origin, Page, Register, Source, Status, UnknownStatus};
use model::polling::Polling;
use model::time::{FacebookTime, HostTime};
use model::value::CanonicalValue;
use serde::{Deserialize, Serialize};

use super::StoreError;

/// Status of the Page.
pub const STATUS: &str = "_status";
/// Stamps and sources of the fields.
pub const REGISTERS: &str = "_registers";
/// The numbers behind its due time.
pub const POLLING: &str = "_polling";
/// Whose logins cover it.
pub const CONNECTIONS: &str = "_connections";
/// Known fields that the last read did not get.
pub const MISSING_FIELDS: &str = "_missing_fields";
/// What is open between notices and reads.
pub const ANNOUNCEMENTS: &str = "_announcements";
/// When a forgotten Page was asked to be, on our clock.
pub const ERASED_AT: &str = "_erased_at";
/// How often it was written. Kept by the store, outside of what is encoded here.
pub const VERSION: &str = "_version";

/// Attribute name to text.
pub type Attributes = BTreeMap<String, String>;

#[derive(Serialize, Deserialize)]
struct Packed(FacebookTime, Source, FacebookTime, Source, Form);

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    S,
    J,
    C,
    N,
}

/// Why attributes are not a Page: what is wrong with them, never their values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

impl From<String> for DecodeError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// The attributes of a Page, without its version.
pub fn encode(page: &Page) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert(STATUS.to_owned(), page.status.to_string());
    if page.status == Status::Erased {
        let at = page
            .erased_at
            .map(|at| (ERASED_AT.to_owned(), at.to_string()));
        attributes.extend(at);
        return attributes;
    }
    let mut packed = BTreeMap::new();
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
            None => Form::N,
            Some(value) if value.is_truncated() => Form::C,
            Some(value) if value.is_string() => Form::S,
            Some(_) => Form::J,
        };
        packed.insert(
            field,
            Packed(*stamp, *source, origin.stamp, origin.source, form),
        );
        if let Some(value) = value {
            attributes.insert(field.to_string(), value.to_plain_text());
        }
    }
    attributes.insert(REGISTERS.to_owned(), to_json(&packed));
    attributes.insert(POLLING.to_owned(), to_json(&page.polling));
    if !page.connections.is_empty() {
        attributes.insert(CONNECTIONS.to_owned(), to_json(&page.connections));
    }
    if !page.missing_fields.is_empty() {
        attributes.insert(MISSING_FIELDS.to_owned(), to_json(&page.missing_fields));
    }
    if !page.announcements.is_empty() {
        attributes.insert(ANNOUNCEMENTS.to_owned(), to_json(&page.announcements));
    }
    attributes
}

/// The Page with these attributes, or what is wrong with them.
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
        let at = attributes.get(ERASED_AT);
        return Ok(Page {
            status,
            erased_at: at.and_then(|at| at.parse().ok()).map(HostTime),
            ..Page::default()
        });
    }
    let unreadable =
        |name: &str, error: serde_json::Error| format!("{name} cannot be read: {error}");
    let packed: BTreeMap<FieldName, Packed> = serde_json::from_str(attribute(REGISTERS)?)
        .map_err(|error| unreadable(REGISTERS, error))?;
    let polling: Polling =
        serde_json::from_str(attribute(POLLING)?).map_err(|error| unreadable(POLLING, error))?;
    let connections = to_set(attributes, CONNECTIONS)?;
    let absent = to_set(attributes, MISSING_FIELDS)?;
    let drift = attributes.get(ANNOUNCEMENTS).map_or("{}", String::as_str);
    // The meter is no part of the state: what cannot be read begins anew.
    let drift = serde_json::from_str(drift).unwrap_or_else(|error| {
        tracing::error!(error = %error, "what the drift meter kept of a Page cannot be read");
        model::announcements::Announcements::new()
    });
    let mut registers = BTreeMap::new();
    for (field, Packed(stamp, source, first, first_source, form)) in packed {
        let plain = || attribute(field.as_str());
        let value = match form {
            Form::N => None,
            Form::S => Some(CanonicalValue::from_stored_text(plain()?, true, false)),
            Form::C => Some(CanonicalValue::from_stored_text(plain()?, true, true)),
            Form::J => Some(CanonicalValue::from_stored_text(plain()?, false, false)),
        };
        let value = value
            .transpose()
            .map_err(|error| unreadable(field.as_str(), error))?;
        let origin = Origin {
            stamp: first,
            source: first_source,
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
        missing_fields: absent,
        announcements: drift,
        erased_at: None,
    })
}

/// A set that is stored only if it has members.
fn to_set<T: Ord + serde::de::DeserializeOwned>(
    attributes: &Attributes,
    name: &str,
) -> Result<BTreeSet<T>, String> {
    let text = attributes.get(name).map_or("[]", String::as_str);
    serde_json::from_str(text).map_err(|error| format!("{name} cannot be read: {error}"))
}

/// JSON text of what we store.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("plain data encodes: {error}"))
}

/// What we stored, from its JSON text.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Unexpected(error.to_string()))
}

/// A subject from the due index; one that this build does not know, as after a step back to an older
/// one, must not hide the others.
pub(super) fn subject(text: &str) -> Option<Subject> {
    let known = Subject::parse(text);
    if known.is_none() {
        tracing::error!(
            bytes = text.len(),
            "the due index names something this build does not know"
        );
    }
    known
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
        page.apply_webhook(&FieldName::parse("f0").unwrap(), Some(FacebookTime(7)), &[]);
        page.polling.record_notification(
            Some(FacebookTime(5)),
            HostTime(6),
            std::time::Duration::from_secs(10),
        );
        page
    }

    #[test]
    fn a_page_survives_its_attributes() {
        let page = page();
        let attributes = encode(&page);
        assert_eq!(attributes["f0"], "plain");
        assert_eq!(decode(&attributes), Ok(page));
    }

    #[test]
    fn a_forgotten_page_leaves_nothing_but_its_status() {
        let page = Page {
            status: Status::Erased,
            ..page()
        };
        assert_eq!(encode(&page).len(), 1);
        assert_eq!(decode(&encode(&page)).unwrap().status, Status::Erased);
    }

    #[test]
    fn what_is_damaged_is_named() {
        for (name, text, complaint) in [
            (REGISTERS, "{", "_registers cannot be read"),
            (STATUS, "merry", "unknown status of 5 bytes"),
            ("f1", "{", "f1 cannot be read"),
        ] {
            let mut attributes = encode(&page());
            attributes.insert(name.to_owned(), text.to_owned());
            let error = decode(&attributes).unwrap_err().0;
            assert!(error.contains(complaint), "{error}");
        }
        let mut attributes = encode(&page());
        attributes.remove("f0");
        assert_eq!(decode(&attributes).unwrap_err().0, "f0 is missing");
    }
}
