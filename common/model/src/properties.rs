//! Property tests of the pure core. A plain `cargo test` generates 256 cases of each; `./test` sets
//! `PROPTEST_CASES` to 100,000.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use crate::field::{FieldName, TrackedFields};
use crate::id::{PageId, Subject};
use crate::job::{Claim, Job, Unreadable, decode_message, encode_job, encode_message};
use crate::page::{Observation, Page, Source};
use crate::polling::{Polling, READ_STALENESS};
use crate::queue_name::QueueName;
use crate::time::{FacebookTime, HostTime};
use crate::value::CanonicalValue;
use crate::webhook::parse_webhook;

/// Generates any JSON value.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((".{0,4}", inner), 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// Generates observations with few fields, stamps and values, so that equal ones are common.
fn observation() -> impl Strategy<Value = Observation> {
    let field = prop_oneof![Just("name"), Just("phone"), Just("fan_count")];
    let value = prop_oneof![
        Just(None),
        (0..4u8).prop_map(|n| CanonicalValue::from_json(&Value::from(n)))
    ];
    let source = prop_oneof![Just(Source::Poll), Just(Source::Webhook)];
    (field, value, 0..5u64, source).prop_map(|(field, value, stamp, source)| Observation {
        field: FieldName::parse(field).expect("a field name"),
        value,
        stamp: FacebookTime(stamp),
        source,
    })
}

/// Returns a new Page to which `observations` were applied.
fn page_of(observations: &[Observation]) -> Page {
    let mut page = Page::default();
    for observation in observations {
        page.apply_observation(observation);
    }
    page
}

/// Returns the state that the merge determines: the registers without their origins, which are only
/// displayed.
fn merged_state(page: &Page) -> Vec<(String, FacebookTime, Source, Option<CanonicalValue>)> {
    let without_origin = |(field, register): (&FieldName, &crate::page::Register)| {
        (
            field.to_string(),
            register.stamp,
            register.source,
            register.value.clone(),
        )
    };
    page.registers.iter().map(without_origin).collect()
}

/// Merges Page `b` into Page `a`, register by register.
fn join(a: &Page, b: &Page) -> Page {
    let mut joined = a.clone();
    for (field, register) in &b.registers {
        joined.apply_observation(&Observation {
            field: field.clone(),
            value: register.value.clone(),
            stamp: register.stamp,
            source: register.source,
        });
    }
    joined
}

proptest! {
    #[test]
    fn merge_is_commutative(a in vec(observation(), 0..6), b in vec(observation(), 0..6)) {
        let (a, b) = (page_of(&a), page_of(&b));
        prop_assert_eq!(merged_state(&join(&a, &b)), merged_state(&join(&b, &a)));
    }

    #[test]
    fn merge_is_associative(a in vec(observation(), 0..5), b in vec(observation(), 0..5), c in vec(observation(), 0..5)) {
        let (a, b, c) = (page_of(&a), page_of(&b), page_of(&c));
        prop_assert_eq!(merged_state(&join(&join(&a, &b), &c)), merged_state(&join(&a, &join(&b, &c))));
    }

    #[test]
    fn merge_is_idempotent_and_reports_no_change_twice(observations in vec(observation(), 0..8)) {
        let once = page_of(&observations);
        let mut twice = once.clone();
        for observation in &observations {
            prop_assert_eq!(twice.apply_observation(observation), None);
        }
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn registers_only_rise(observations in vec(observation(), 0..8), next in observation()) {
        let mut page = page_of(&observations);
        let before = page.clone();
        page.apply_observation(&next);
        for (field, register) in &before.registers {
            prop_assert!(page.registers[field].merge_key() >= register.merge_key());
        }
    }

    #[test]
    fn order_and_repetition_do_not_matter(
        (observations, shuffled) in vec(observation(), 0..8).prop_flat_map(|observations| {
            let repeated: Vec<_> = observations.iter().chain(&observations).cloned().collect();
            (Just(observations), Just(repeated).prop_shuffle())
        })
    ) {
        prop_assert_eq!(merged_state(&page_of(&observations)), merged_state(&page_of(&shuffled)));
    }

    #[test]
    fn merging_parts_equals_applying_all_observations(observations in vec(observation(), 0..8), split in 0..8usize) {
        let split = split.min(observations.len());
        let parts = join(&page_of(&observations[..split]), &page_of(&observations[split..]));
        prop_assert_eq!(merged_state(&page_of(&observations)), merged_state(&parts));
    }

    #[test]
    fn a_canonical_value_is_restored_from_json_and_from_stored_text(value in json()) {
        if let Some(canonical) = CanonicalValue::from_json(&value) {
            prop_assert_eq!(CanonicalValue::from_json(&canonical.to_json()), Some(canonical.clone()));
            let restored = CanonicalValue::from_stored_text(&canonical.to_plain_text(), canonical.is_string(), canonical.is_truncated());
            prop_assert_eq!(restored.expect("a stored value"), canonical);
        }
    }

    #[test]
    fn any_bytes_are_parsed_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        let delivery = parse_webhook(&bytes);
        prop_assert!(delivery.rejected.len() + delivery.ignored.len() + delivery.entries.len() >= 1);
        prop_assert!(delivery.entries.is_empty());
        decode_message(&bytes);
    }

    #[test]
    fn any_entry_is_passed_on_counted_or_rejected(
        id in prop_oneof![json(), Just(Value::from("5"))],
        time in json(),
        changes in prop_oneof![json(), vec(json(), 0..3).prop_map(Value::from)],
        fields in prop_oneof![json(), Just(Value::Null), Just(serde_json::json!(["name", "feed"]))],
    ) {
        let body = serde_json::json!({"object": "page", "entry": [
            {"id": id, "time": time, "changes": changes, "changed_fields": fields},
            {"id": "7", "time": 5, "changes": [{"field": "name", "value": time}, {"field": "hours"}, changes]},
        ]});
        let delivery = parse_webhook(body.to_string().as_bytes());
        for entry in &delivery.entries {
            let meaning = entry.interpret(HostTime(1 << 50), &TrackedFields::default());
            prop_assert!(meaning.is_ok(), "an entry that was passed on cannot be used: {:?}", meaning);
        }
        let passed_on = delivery.entries.iter().filter(|entry| entry.as_str().contains(r#""id":"7""#)).count();
        prop_assert!(passed_on >= 1);
        let counted: u64 = delivery.ignored.values().sum();
        let outcomes = delivery.entries.len() as u64 + delivery.rejected.len() as u64 + counted;
        prop_assert!(outcomes >= 2, "the first entry was lost: {:?}", delivery);
    }

    #[test]
    fn a_job_is_restored_from_its_wire_form(body in vec(any::<u8>(), 0..50), reason in ".{0,20}", at in any::<u64>()) {
        let webhook = parse_webhook(br#"{"object":"page","entry":[{"id":"7","time":5,"changes":[{"field":"name","value":"\ud83d"}]}]}"#);
        let jobs = vec![
            Job::Unreadable(Unreadable { body, reason, received_at: HostTime(at) }),
            Job::Webhook { entry: webhook.entries[0].clone(), received_at: HostTime(at) },
            Job::Poll(Claim { subject: Subject::Page(PageId::parse("7").expect("an id")), queue: QueueName::PollsNow, due_at: HostTime(at) }),
        ];
        let encoded: Vec<String> = jobs.iter().map(encode_job).collect();
        prop_assert_eq!(decode_message(encode_message(encoded.iter().map(String::as_str)).as_bytes()), jobs);
    }
}

/// An event in the history of the poll state of a Page.
#[derive(Debug, Clone)]
enum Event {
    /// A notification that was sent this many milliseconds ago, or without a time.
    Notification { age: Option<u64> },
    /// A request for a read.
    Request,
    /// The beginning of an attempt.
    Begin,
    /// The success of the attempt, with a stamp this many milliseconds ago.
    Succeed { age: u64 },
    /// The failure of the attempt, with a retry delay in milliseconds.
    Fail { retry_delay: u64 },
}

/// Generates an event, and the milliseconds since the previous event.
fn event() -> impl Strategy<Value = (u64, Event)> {
    let event = prop_oneof![
        proptest::option::of(0..100_000u64).prop_map(|age| Event::Notification { age }),
        Just(Event::Request),
        Just(Event::Begin),
        (0..100_000u64).prop_map(|age| Event::Succeed { age }),
        (0..1_000_000u64).prop_map(|retry_delay| Event::Fail { retry_delay }),
    ];
    (0..30_000u64, event)
}

proptest! {
    /// After any history, either a successful read was late enough to answer every notification and
    /// every request, or the Page is due in `polls_now`.
    #[test]
    fn every_notification_and_request_is_answered_or_due(events in vec(event(), 0..20)) {
        const VERIFY_AFTER: Duration = Duration::from_secs(10);
        let mut polling = Polling::default();
        let mut now = HostTime(1_000_000);
        let mut attempt = None;
        let (mut notifications, mut requests, mut reads): (Vec<FacebookTime>, Vec<HostTime>, Vec<(HostTime, FacebookTime)>) = Default::default();
        let mut last_retry_at = HostTime(0);
        for (wait, event) in events {
            now = HostTime(now.0 + wait);
            let due_before = polling.due().filter(|(queue_name, _)| *queue_name == QueueName::PollsNow);
            let is_new = matches!(event, Event::Notification { .. } | Event::Request);
            match event {
                Event::Notification { age: Some(age) } => {
                    let sent = FacebookTime(now.0 - age);
                    notifications.push(sent);
                    polling.record_notification(Some(sent), now, VERIFY_AFTER);
                }
                Event::Notification { age: None } => {
                    requests.push(now);
                    polling.record_notification(None, now, VERIFY_AFTER);
                }
                Event::Request => {
                    requests.push(now);
                    polling.request_read(now);
                }
                Event::Begin => {
                    attempt = Some(now);
                    polling.begin_attempt(now);
                }
                Event::Succeed { age } => if let Some(began_at) = attempt.take() {
                    let stamp = FacebookTime(now.0 - age);
                    reads.push((began_at, stamp));
                    polling.complete_read(began_at, stamp, HostTime(now.0 + 86_400_000));
                },
                Event::Fail { retry_delay } => if attempt.take().is_some() {
                    last_retry_at = HostTime(now.0 + retry_delay);
                    polling.fail_attempt(last_retry_at);
                },
            }
            if let Some((_, due_before)) = due_before.filter(|_| is_new) {
                let (_, due) = polling.due().expect("still due");
                prop_assert!(due <= due_before, "a new notification or request postponed the read");
            }
        }
        let is_notification_open = notifications.iter().any(|sent| !reads.iter().any(|(_, stamp)| *stamp > sent.plus(READ_STALENESS)));
        let is_request_open = requests.iter().any(|requested| !reads.iter().any(|(began_at, _)| began_at >= requested));
        if is_notification_open || is_request_open {
            prop_assert!(polling.has_open_notification_or_request());
        }
        if polling.has_open_notification_or_request() {
            let (queue_name, at) = polling.due().expect("an open notification or request is due");
            prop_assert_eq!(queue_name, QueueName::PollsNow);
            let bound = now.plus(Duration::from_secs(60)).max(last_retry_at);
            prop_assert!(at <= bound, "due at {}, later than {}", at, bound);
        } else if let Some((queue_name, _)) = polling.due() {
            prop_assert_eq!(queue_name, QueueName::PollsDaily);
        }
    }
}

/// Applies `changes` to `values`, as a reader of the changes does.
fn replay(
    values: &mut std::collections::BTreeMap<FieldName, Option<CanonicalValue>>,
    changes: &[crate::page::Change],
) {
    for change in changes {
        values.insert(change.field.clone(), change.after.clone());
    }
}

proptest! {
    /// Replaying the changes in their order gives the state of the Page, except for counters. An
    /// observation that has already been applied gives no change.
    #[test]
    fn replaying_the_changes_gives_the_state_of_the_page(observations in vec(observation(), 0..12)) {
        let mut page = Page::default();
        let mut replayed = std::collections::BTreeMap::new();
        for observation in &observations {
            let changes: Vec<_> = page.apply_observation(observation).into_iter().collect();
            replay(&mut replayed, &changes);
            prop_assert_eq!(page.apply_observation(observation), None);
        }
        for (field, register) in &page.registers {
            if !field.is_counter() {
                prop_assert_eq!(&replayed.get(field).cloned().flatten(), &register.value);
            }
        }
    }
}
