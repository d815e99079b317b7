//! Field values in canonical form. Equal values have equal bytes, and every process orders values
//! the same way.
//!
//! Invariant: a [`CanonicalValue`] is JSON with sorted keys and without insignificant space, is at
//! most [`MAX_BYTES`] long, and is never `null`. Where a value may be null, `None` stands for null.

use std::fmt::Write as _;

use serde_json::Value;

/// The maximum length of a canonical text, in bytes. A longer value is truncated and flagged.
pub const MAX_BYTES: usize = 8 * 1024;

/// A value that is not null, as canonical JSON text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanonicalValue {
    text: String,
    truncated: bool,
}

impl CanonicalValue {
    /// Returns the canonical form of `value`, or `None` if it is null.
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

    /// Restores a value from the results of [`Self::to_plain_text`], [`Self::is_string`] and
    /// [`Self::is_truncated`]. Returns an error if it is not a string and `plain_text` is not JSON.
    pub fn from_stored_text(
        plain_text: &str,
        is_string: bool,
        is_truncated: bool,
    ) -> Result<Self, serde_json::Error> {
        let value = if is_string {
            Value::String(plain_text.to_owned())
        } else {
            serde_json::from_str(plain_text)?
        };
        let mut text = String::new();
        write_sorted(&value, &mut text);
        Ok(Self {
            text,
            truncated: is_truncated,
        })
    }

    /// Returns the canonical JSON text.
    pub fn as_json_text(&self) -> &str {
        &self.text
    }

    /// Returns the value as JSON.
    pub fn to_json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| Value::String(self.text.clone()))
    }

    /// Returns the value as plain text: a string without quotes, anything else as canonical JSON.
    pub fn to_plain_text(&self) -> String {
        match self.to_json() {
            Value::String(text) => text,
            _ => self.text.clone(),
        }
    }

    /// Returns whether the value is a string.
    pub fn is_string(&self) -> bool {
        self.text.starts_with('"')
    }

    /// Returns whether the value was longer than [`MAX_BYTES`], so that only its beginning is
    /// stored, as a string.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }
}

/// Returns the longest prefix of `whole` that fits into [`MAX_BYTES`] as a JSON string.
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
        // An escape takes at most six bytes for one byte of `whole`, so this never removes too
        // much.
        end -= ((text.len() - MAX_BYTES) / 6).max(1);
    }
}

/// Writes `value` as JSON with the keys of every object in byte order.
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
    fn a_long_value_is_truncated_at_a_character_boundary_and_flagged() {
        for long in [
            "ä".repeat(9000),
            "\u{1}".repeat(9000),
            "x".repeat(MAX_BYTES - 1),
        ] {
            let truncated = CanonicalValue::from_json(&Value::String(long.clone())).unwrap();
            assert!(
                truncated.is_truncated()
                    && truncated.text.len() <= MAX_BYTES
                    && long.starts_with(&truncated.to_plain_text())
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
    fn null_has_no_canonical_form() {
        assert_eq!(CanonicalValue::from_json(&Value::Null), None);
    }
}
