//! Removes what people wrote from webhooks that cannot be read, before they are stored.
//!
//! Invariant: no message, comment or post remains. A webhook whose parts cannot be told apart is
//! reduced to its length if it may contain one.

use serde_json::Value;

use crate::webhook_field::{FieldMeaning, meaning_of};

/// The members that contain what people wrote, wherever they are.
const WRITTEN_BY_PEOPLE: [&str; 7] = [
    "messaging",
    "standby",
    "message",
    "messages",
    "text",
    "comment",
    "attachments",
];
/// The value that replaces what was removed.
const REMOVED: &str = "(removed)";

/// Returns a webhook, or an entry of one, without what people wrote. Everything else is kept.
pub(super) fn without_messages(body: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<Value>(body) {
        Ok(mut value) => {
            remove(&mut value);
            value.to_string().into_bytes()
        }
        Err(_) if may_contain_message(body) => format!(
            "\"{REMOVED}: {} bytes that cannot be read as JSON\"",
            body.len()
        )
        .into_bytes(),
        Err(_) => body.to_vec(),
    }
}

/// Replaces the members that people wrote, and the values of changes that do not concern a profile.
fn remove(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(remove),
        Value::Object(members) => {
            let field = members.get("field").and_then(Value::as_str);
            let is_profile = field.is_some_and(|name| meaning_of(name) != FieldMeaning::NotProfile);
            let has_field = members.contains_key("field");
            for (name, member) in members.iter_mut() {
                let is_other_change = name == "value" && has_field && !is_profile;
                if WRITTEN_BY_PEOPLE.contains(&name.as_str()) || is_other_change {
                    *member = Value::from(REMOVED);
                } else {
                    remove(member);
                }
            }
        }
        _ => {}
    }
}

/// Returns whether bytes that are not JSON name a member that people write.
fn may_contain_message(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let names = WRITTEN_BY_PEOPLE.iter().chain(&["feed", "value"]);
    names.into_iter().any(|name| text.contains(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLANTED: &str = "PLANTED text of a person";

    #[test]
    fn no_message_remains_and_the_rest_is_kept() {
        for body in [
            format!(r#"{{"id":"x","time":7,"messaging":[{{"message":{{"text":"{PLANTED}"}}}}]}}"#),
            format!(r#"{{"id":"x","time":7,"standby":"{PLANTED}"}}"#),
            format!(
                r#"{{"id":"x","time":7,"changes":[{{"field":"feed","value":{{"item":"{PLANTED}"}}}}]}}"#
            ),
            format!(r#"{{"id":"x","time":7,"changes":[{{"field":7,"value":"{PLANTED}"}}]}}"#),
            format!(
                r#"{{"object":"page","id":"x","time":7,"entry":{{"messaging":["{PLANTED}"]}}}}"#
            ),
        ] {
            let kept = String::from_utf8(without_messages(body.as_bytes())).unwrap();
            assert!(!kept.contains(PLANTED), "{kept}");
            let kept: Value = serde_json::from_str(&kept).unwrap();
            assert_eq!(
                (&kept["id"], &kept["time"]),
                (&"x".into(), &7.into()),
                "{kept}"
            );
        }
        for body in [
            format!(r#"{{"id":"x","messaging":[{{"message":{{"text":"{PLANTED}"#),
            format!(r#"[{{"field":"feed","value":"{PLANTED}"#),
        ] {
            let kept = without_messages(body.as_bytes());
            assert!(!String::from_utf8(kept).unwrap().contains(PLANTED));
        }
    }

    #[test]
    fn a_profile_value_and_bytes_without_a_message_are_kept() {
        let change = r#"{"changes":[{"field":"name","value":"New name"}],"id":"x"}"#;
        let kept: Value = serde_json::from_slice(&without_messages(change.as_bytes())).unwrap();
        assert_eq!(kept, serde_json::from_str::<Value>(change).unwrap());
        assert_eq!(without_messages(b"<html>502</html>"), b"<html>502</html>");
    }
}
