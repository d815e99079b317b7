//! Field values in canonical form, so that equal values have equal bytes and any two values have an
//! order every process agrees on.
//!
//! Invariant: `Canonical` holds JSON with sorted keys and no insignificant space, at most
//! [`MAX_BYTES`] long, never `null` (an absent value is `None` wherever a value may be absent).

use std::fmt::Write as _;

use serde_json::Value;

/// Longest canonical text kept, in bytes. A longer one is cut and flagged.
pub const MAX_BYTES: usize = 8 * 1024;

/// A value that is not null, as canonical JSON text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanonicalValue {
    text: String,
    truncated: bool,
}

impl CanonicalValue {
    /// The canonical form of `value`; `None` for null.
    pub fn from_json(value: &Value) -> Option<Self> {
        if value.is_null() {
            return None;
        }
        let mut text = String::new();
        write_sorted(value, &mut text);
        if text.len() <= MAX_BYTES {
            return Some(Self {
                text,
                truncated: false,
            });
        }
        let whole = value.as_str().unwrap_or(&text);
        Some(Self {
            text: truncate_to_json_string(whole),
            truncated: true,
        })
    }

    /// Takes back what [`Self::plain`], [`Self::is_text`] and [`Self::is_cut`] gave.
    pub fn from_stored_text(
        plain: &str,
        is_text: bool,
        is_cut: bool,
    ) -> Result<Self, serde_json::Error> {
        let value = if is_text {
            Value::String(plain.to_owned())
        } else {
            serde_json::from_str(plain)?
        };
        let mut text = String::new();
        write_sorted(&value, &mut text);
        Ok(Self {
            text,
            truncated: is_cut,
        })
    }

    /// The canonical JSON text.
    pub fn as_json_text(&self) -> &str {
        &self.text
    }

    /// The value as JSON.
    pub fn to_json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| Value::String(self.text.clone()))
    }

    /// The value as a person would write it: a string without quotes, anything else as JSON.
    pub fn to_plain_text(&self) -> String {
        match self.to_json() {
            Value::String(text) => text,
            _ => self.text.clone(),
        }
    }

    /// Whether the value is a string.
    pub fn is_string(&self) -> bool {
        self.text.starts_with('"')
    }

    /// Whether the value was longer than [`MAX_BYTES`] and only its beginning is kept, as a string.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }
}

/// The JSON string of the longest prefix of `whole` whose encoding fits.
fn truncate_to_json_string(whole: &str) -> String {
    let mut end = whole.len().min(MAX_BYTES);
    loop {
        while !whole.is_char_boundary(end) {
            end -= 1;
        }
        let text = Value::String(whole[..end].to_owned()).to_string();
        if text.len() <= MAX_BYTES {
            return text;
        }
        // Escapes made it longer than it was: give back as much as it is over, at least a byte.
        end -= ((text.len() - MAX_BYTES) / 6).max(1);
    }
}

/// Writes `value` with its keys in byte order, whatever order the parser kept.
fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_sorted(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut keys: Vec<&String> = members.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_sorted(&Value::String(key.clone()), out);
                out.push(':');
                write_sorted(&members[key], out);
            }
            out.push('}');
        }
        scalar => {
            // Writing to a String cannot fail.
            let _ = write!(out, "{scalar}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value = json!({"b": {"d": 1, "c": [2, {"z": null, "a": true}]}, "a": "x"});
        let text = CanonicalValue::from_json(&value).unwrap().text;
        assert_eq!(text, r#"{"a":"x","b":{"c":[2,{"a":true,"z":null}],"d":1}}"#);
    }

    #[test]
    fn a_long_value_is_cut_at_a_character_and_flagged() {
        for long in [
            "ä".repeat(9000),
            "\u{1}".repeat(9000),
            "x".repeat(MAX_BYTES - 1),
        ] {
            let cut = CanonicalValue::from_json(&Value::String(long.clone())).unwrap();
            assert!(
                cut.is_truncated()
                    && cut.text.len() <= MAX_BYTES
                    && long.starts_with(&cut.to_plain_text())
            );
        }
        assert!(
            !CanonicalValue::from_json(&json!("x".repeat(MAX_BYTES - 2)))
                .unwrap()
                .is_truncated()
        );
        assert!(
            CanonicalValue::from_json(&json!(vec!["x"; 4000]))
                .unwrap()
                .is_truncated()
        );
    }

    #[test]
    fn null_is_no_value() {
        assert_eq!(CanonicalValue::from_json(&Value::Null), None);
    }
}
