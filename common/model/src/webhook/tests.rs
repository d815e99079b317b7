//! What intake keeps, and what a kept entry means.

use super::*;

const RECEIVED: HostTime = HostTime(1_790_000_000_000);

fn one(body: &str) -> EntryMeaning {
    let intake = parse_delivery(body.as_bytes());
    assert_eq!(intake.rejected, [], "{body}");
    intake.entries[0]
        .interpret(RECEIVED, &TrackedFields::default())
        .unwrap()
}

fn rejected(body: &[u8]) -> String {
    let intake = parse_delivery(body);
    assert!(
        intake.entries.is_empty() && intake.rejected.len() == 1,
        "{intake:?}"
    );
    intake.rejected[0].reason.clone()
}

#[test]
fn a_name_comes_with_its_value_and_a_phone_without() {
    let body = r#"{"object":"page","entry":[{"id":"5","time":1789999000,"changes":[{"field":"name","value":"Caf\u00e9"},{"field":"phone","value":"x"}]}]}"#;
    let reading = one(body);
    assert_eq!(reading.sent_at, Some(FacebookTime(1_789_999_000_000)));
    assert_eq!(reading.observations.len(), 1);
    assert_eq!(
        reading.observations[0]
            .value
            .as_ref()
            .unwrap()
            .to_plain_text(),
        "Café"
    );
    assert!(!reading.notified_fields.is_empty());
}

#[test]
fn category_is_a_hint_because_its_value_is_a_constant_graph_never_gives() {
    let body = r#"{"object":"page","entry":[{"id":"5","time":1789999000,"changes":[{"field":"category","value":"WEBSITE"}]}]}"#;
    let reading = one(body);
    assert!(reading.observations.is_empty() && !reading.notified_fields.is_empty());
}

#[test]
fn other_peoples_data_does_not_survive_intake() {
    let body = r#"{"object":"page","entry":[{"id":"5","time":1,"messaging":[{"secret":1}],"changes":[{"field":"feed","value":{"message":"secret"}},{"field":"name","value":"n"}]},{"id":"6","time":1,"standby":["secret"]}]}"#;
    let intake = parse_delivery(body.as_bytes());
    assert_eq!(intake.entries.len(), 1);
    assert!(!intake.entries[0].as_str().contains("secret"));
    assert_eq!(
        intake.ignored,
        BTreeMap::from([("feed", 1), ("messaging", 1), ("standby", 1)])
    );
}

#[test]
fn a_time_is_seconds_or_milliseconds_and_not_from_the_future() {
    let sent = |time: &str| {
        one(&format!(
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
fn without_a_time_a_value_is_only_a_hint() {
    let reading =
        one(r#"{"object":"page","entry":[{"id":"5","changes":[{"field":"name","value":"n"}]}]}"#);
    assert!(
        reading.observations.is_empty()
            && !reading.notified_fields.is_empty()
            && reading.sent_at.is_none()
    );
}

#[test]
fn what_cannot_be_read_is_named_by_its_shape() {
    assert!(rejected(b"").contains("ends too early"));
    assert!(rejected(b"\xff{}").contains("not JSON"));
    assert!(rejected(b"[1]").contains("wrong type"));
    assert_eq!(rejected(br#"{"object":"page"}"#), "the body has no entry");
    assert_eq!(
        rejected(br#"{"object":"page","entry":{}}"#),
        "entry is not a list"
    );
    assert_eq!(
        rejected(br#"{"object":"page","entry":[{"id":"../x"}]}"#),
        "the id of an entry is not a Page id"
    );
    assert!(
        rejected(br#"{"object":"page","entry":[{"id":"1","id":"2"}]}"#).contains("there twice")
    );
    assert!(rejected("[".repeat(10_000).as_bytes()).contains("wrong type"));
}

#[test]
fn a_value_that_cannot_be_read_leaves_the_rest_of_the_entry_good() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deepish = format!("{}{}", "[".repeat(65), "]".repeat(65));
    for bad in [r#""\ud83d""#, deep.as_str(), deepish.as_str()] {
        let body = format!(
            r#"{{"object":"page","entry":[{{"id":"5","time":1789999000,"changes":[{{"field":"name","value":{bad}}},{{"no":"field"}},{{"field":"name","value":"good"}}]}}]}}"#
        );
        let reading = one(&body);
        assert_eq!(reading.observations.len(), 1);
        assert_eq!(reading.problems.len(), 2);
    }
}

#[test]
fn unknown_names_are_counted_together() {
    let body = r#"{"object":"page","entry":[{"id":"5","time":1,"changes":[{"field":"foo"},{"field":"!version"},{"field":""}]}]}"#;
    let intake = parse_delivery(body.as_bytes());
    assert_eq!(intake.ignored, BTreeMap::from([("unknown", 3)]));
    assert!(intake.entries.is_empty());
    assert_eq!(
        parse_delivery(br#"{"object":"dance","entry":[]}"#).ignored,
        BTreeMap::from([("object.unknown", 1)])
    );
    assert_eq!(
        parse_delivery(br#"{"entry":[]}"#).ignored,
        BTreeMap::from([("object.unknown", 1)])
    );
}
