//! Tests of [`parse_webhook`] and [`ProfileEntry::interpret`].

use super::*;

const RECEIVED_AT: HostTime = HostTime(1_790_000_000_000);

fn interpret_first_entry(body: &str) -> EntryMeaning {
    let delivery = parse_webhook(body.as_bytes());
    assert_eq!(delivery.rejected, [], "{body}");
    delivery.entries[0]
        .interpret(RECEIVED_AT, &TrackedFields::default())
        .unwrap()
}

fn rejection_reason(body: &[u8]) -> String {
    let delivery = parse_webhook(body);
    assert!(
        delivery.entries.is_empty() && delivery.rejected.len() == 1,
        "{delivery:?}"
    );
    delivery.rejected[0].reason.clone()
}

#[test]
fn a_name_change_carries_its_value_and_a_phone_change_does_not() {
    let body = r#"{"object":"page","entry":[{"id":"5","time":1789999000,"changes":[{"field":"name","value":"Caf\u00e9"},{"field":"phone","value":"x"}]}]}"#;
    let meaning = interpret_first_entry(body);
    assert_eq!(meaning.sent_at, Some(FacebookTime(1_789_999_000_000)));
    assert_eq!(meaning.observations.len(), 1);
    assert_eq!(
        meaning.observations[0]
            .value
            .as_ref()
            .unwrap()
            .to_plain_text(),
        "Café"
    );
    assert!(!meaning.notified_fields.is_empty());
}

#[test]
fn the_value_of_a_category_change_is_ignored_because_graph_never_returns_it() {
    let body = r#"{"object":"page","entry":[{"id":"5","time":1789999000,"changes":[{"field":"category","value":"WEBSITE"}]}]}"#;
    let meaning = interpret_first_entry(body);
    assert!(meaning.observations.is_empty() && !meaning.notified_fields.is_empty());
}

#[test]
fn messages_and_posts_are_removed_and_counted() {
    let body = r#"{"object":"page","entry":[{"id":"5","time":1,"messaging":[{"secret":1}],"changes":[{"field":"feed","value":{"message":"secret"}},{"field":"name","value":"n"}]},{"id":"6","time":1,"standby":["secret"]}]}"#;
    let delivery = parse_webhook(body.as_bytes());
    assert_eq!(delivery.entries.len(), 1);
    assert!(!delivery.entries[0].as_str().contains("secret"));
    assert_eq!(
        delivery.ignored,
        BTreeMap::from([("feed", 1), ("messaging", 1), ("standby", 1)])
    );
}

#[test]
fn an_entry_time_is_seconds_or_milliseconds_and_at_most_five_minutes_ahead() {
    let sent = |time: &str| {
        interpret_first_entry(&format!(
            r#"{{"object":"page","entry":[{{"id":5,"time":{time},"changed_fields":["name"]}}]}}"#
        ))
        .sent_at
    };
    assert_eq!(sent("1789999000"), Some(FacebookTime(1_789_999_000_000)));
    assert_eq!(sent("1789999000123"), Some(FacebookTime(1_789_999_000_123)));
    assert_eq!(sent("1790000300"), Some(FacebookTime(1_790_000_300_000)));
    for bad in [
        "1790000301",
        "0",
        "-5",
        "null",
        r#""1789999000""#,
        "1.5",
        "1e9",
        "1000000000000000000",
        "99999999999999999999",
    ] {
        assert_eq!(sent(bad), None, "{bad}");
    }
}

#[test]
fn a_value_without_an_entry_time_is_ignored_and_its_field_is_notified() {
    let meaning = interpret_first_entry(
        r#"{"object":"page","entry":[{"id":"5","changes":[{"field":"name","value":"n"}]}]}"#,
    );
    assert!(
        meaning.observations.is_empty()
            && !meaning.notified_fields.is_empty()
            && meaning.sent_at.is_none()
    );
}

#[test]
fn a_rejected_part_is_described_by_its_shape() {
    assert!(rejection_reason(b"").contains("ends too early"));
    assert!(rejection_reason(b"\xff{}").contains("not JSON"));
    assert!(rejection_reason(b"[1]").contains("wrong type"));
    assert_eq!(
        rejection_reason(br#"{"object":"page"}"#),
        "the body has no entry"
    );
    assert_eq!(
        rejection_reason(br#"{"object":"page","entry":{}}"#),
        "entry is not a list"
    );
    assert_eq!(
        rejection_reason(br#"{"object":"page","entry":[{"id":"../x"}]}"#),
        "the id of an entry is not a Page id"
    );
    assert!(
        rejection_reason(br#"{"object":"page","entry":[{"id":"1","id":"2"}]}"#)
            .contains("occurs twice")
    );
    assert!(rejection_reason("[".repeat(10_000).as_bytes()).contains("wrong type"));
}

#[test]
fn an_unreadable_value_does_not_affect_the_rest_of_its_entry() {
    let unparsable = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let too_deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    for bad in [r#""\ud83d""#, unparsable.as_str(), too_deep.as_str()] {
        let body = format!(
            r#"{{"object":"page","entry":[{{"id":"5","time":1789999000,"changes":[{{"field":"name","value":{bad}}},{{"no":"field"}},{{"field":"name","value":"good"}}]}}]}}"#
        );
        let meaning = interpret_first_entry(&body);
        assert_eq!(meaning.observations.len(), 1);
        assert_eq!(meaning.problems.len(), 2);
    }
}

#[test]
fn unknown_webhook_fields_and_objects_are_counted_as_unknown() {
    let body = r#"{"object":"page","entry":[{"id":"5","time":1,"changes":[{"field":"foo"},{"field":"!version"},{"field":""}]}]}"#;
    let delivery = parse_webhook(body.as_bytes());
    assert_eq!(delivery.ignored, BTreeMap::from([("unknown", 3)]));
    assert!(delivery.entries.is_empty());
    assert_eq!(
        parse_webhook(br#"{"object":"dance","entry":[]}"#).ignored,
        BTreeMap::from([("object.unknown", 1)])
    );
    assert_eq!(
        parse_webhook(br#"{"entry":[]}"#).ignored,
        BTreeMap::from([("object.unknown", 1)])
    );
}
