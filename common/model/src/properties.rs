//! Properties of the pure core, on generated cases: 256 in a plain `cargo test`, 100,000 in `./test`
//! (`PROPTEST_CASES`).

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
use crate::webhook::parse_delivery;

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

/// Few fields, stamps and values, so that ties are common.
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

fn after(seen: &[Observation]) -> Page {
    let mut page = Page::default();
    for one in seen {
        page.apply_observation(one);
    }
    page
}

/// The state the merge is about: everything but the origin, which is for display.
fn keys(page: &Page) -> Vec<(String, FacebookTime, Source, Option<CanonicalValue>)> {
    let register = |(field, register): (&FieldName, &crate::page::Register)| {
        (
            field.to_string(),
            register.stamp,
            register.source,
            register.value.clone(),
        )
    };
    page.registers.iter().map(register).collect()
}

/// Merges page `b` into page `a`, register by register.
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
        let (a, b) = (after(&a), after(&b));
        prop_assert_eq!(keys(&join(&a, &b)), keys(&join(&b, &a)));
    }

    #[test]
    fn merge_is_associative(a in vec(observation(), 0..5), b in vec(observation(), 0..5), c in vec(observation(), 0..5)) {
        let (a, b, c) = (after(&a), after(&b), after(&c));
        prop_assert_eq!(keys(&join(&join(&a, &b), &c)), keys(&join(&a, &join(&b, &c))));
    }

    #[test]
    fn merge_is_idempotent_and_repeats_nothing(seen in vec(observation(), 0..8)) {
        let once = after(&seen);
        let mut twice = once.clone();
        for one in &seen {
            prop_assert_eq!(twice.apply_observation(one), None);
        }
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn registers_only_rise(seen in vec(observation(), 0..8), next in observation()) {
        let mut page = after(&seen);
        let before = page.clone();
        page.apply_observation(&next);
        for (field, register) in &before.registers {
            prop_assert!(page.registers[field].merge_key() >= register.merge_key());
        }
    }

    #[test]
    fn order_and_repetition_do_not_matter(
        (seen, shuffled) in vec(observation(), 0..8).prop_flat_map(|seen| {
            let repeated: Vec<_> = seen.iter().chain(&seen).cloned().collect();
            (Just(seen), Just(repeated).prop_shuffle())
        })
    ) {
        prop_assert_eq!(keys(&after(&seen)), keys(&after(&shuffled)));
    }

    #[test]
    fn a_batch_is_its_observations_one_by_one(seen in vec(observation(), 0..8), cut in 0..8usize) {
        let cut = cut.min(seen.len());
        let parts = join(&after(&seen[..cut]), &after(&seen[cut..]));
        prop_assert_eq!(keys(&after(&seen)), keys(&parts));
    }

    #[test]
    fn canonical_form_is_stable(value in json()) {
        if let Some(canonical) = CanonicalValue::from_json(&value) {
            prop_assert_eq!(CanonicalValue::from_json(&canonical.to_json()), Some(canonical.clone()));
            let back = CanonicalValue::from_stored_text(&canonical.to_plain_text(), canonical.is_string(), canonical.is_truncated());
            prop_assert_eq!(back.expect("what we wrote"), canonical);
        }
    }

    #[test]
    fn any_bytes_are_taken_in_without_panic(bytes in vec(any::<u8>(), 0..200)) {
        let taken = parse_delivery(&bytes);
        prop_assert!(taken.rejected.len() + taken.ignored.len() + taken.entries.len() >= 1);
        prop_assert!(taken.entries.is_empty());
        decode_message(&bytes);
    }

    #[test]
    fn any_entry_is_kept_counted_or_rejected(
        id in prop_oneof![json(), Just(Value::from("5"))],
        time in json(),
        changes in prop_oneof![json(), vec(json(), 0..3).prop_map(Value::from)],
        fields in prop_oneof![json(), Just(Value::Null), Just(serde_json::json!(["name", "feed"]))],
    ) {
        let body = serde_json::json!({"object": "page", "entry": [
            {"id": id, "time": time, "changes": changes, "changed_fields": fields},
            {"id": "7", "time": 5, "changes": [{"field": "name", "value": time}, {"field": "hours"}, changes]},
        ]});
        let taken = parse_delivery(body.to_string().as_bytes());
        for entry in &taken.entries {
            let reading = entry.interpret(HostTime(1 << 50), &TrackedFields::default());
            prop_assert!(reading.is_ok(), "intake let an unreadable entry through: {:?}", reading);
        }
        let there = taken.entries.iter().filter(|entry| entry.as_str().contains(r#""id":"7""#)).count();
        prop_assert!(there >= 1);
        let counted: u64 = taken.ignored.values().sum();
        let outcomes = taken.entries.len() as u64 + taken.rejected.len() as u64 + counted;
        prop_assert!(outcomes >= 2, "nothing became of the first entry: {:?}", taken);
    }

    #[test]
    fn a_job_survives_its_wire_form(body in vec(any::<u8>(), 0..50), reason in ".{0,20}", at in any::<u64>()) {
        let webhook = parse_delivery(br#"{"object":"page","entry":[{"id":"7","time":5,"changes":[{"field":"name","value":"\ud83d"}]}]}"#);
        let jobs = vec![
            Job::Unreadable(Unreadable { body, reason, received_at: HostTime(at) }),
            Job::Webhook { entry: webhook.entries[0].clone(), received_at: HostTime(at) },
            Job::Poll(Claim { subject: Subject::Page(PageId::parse("7").expect("an id")), queue: QueueName::PollsNow, due_at: HostTime(at) }),
        ];
        let encoded: Vec<String> = jobs.iter().map(encode_job).collect();
        prop_assert_eq!(decode_message(encode_message(encoded.iter().map(String::as_str)).as_bytes()), jobs);
    }
}

/// What can happen to a Page's polling.
#[derive(Debug, Clone)]
enum Event {
    Notice { sent: Option<u64> },
    Ask,
    Start,
    Succeed { lag: u64 },
    Fail { pause: u64 },
}

fn event() -> impl Strategy<Value = (u64, Event)> {
    let what = prop_oneof![
        proptest::option::of(0..100_000u64).prop_map(|sent| Event::Notice { sent }),
        Just(Event::Ask),
        Just(Event::Start),
        (0..100_000u64).prop_map(|lag| Event::Succeed { lag }),
        (0..1_000_000u64).prop_map(|pause| Event::Fail { pause }),
    ];
    (0..30_000u64, what)
}

proptest! {
    /// Nothing wanted is ever forgotten: after any history, every notice and every wish either is
    /// answered by a good read that came late enough, or the Page is due in `polls_now`.
    #[test]
    fn nothing_wanted_is_ever_forgotten(events in vec(event(), 0..20)) {
        const VERIFY_AFTER: Duration = Duration::from_secs(10);
        let mut polling = Polling::default();
        let mut now = HostTime(1_000_000);
        let mut attempt = None;
        let (mut notices, mut wishes, mut reads): (Vec<FacebookTime>, Vec<HostTime>, Vec<(HostTime, FacebookTime)>) = Default::default();
        let mut last_pause = HostTime(0);
        for (wait, event) in events {
            now = HostTime(now.0 + wait);
            let due_before = polling.due().filter(|(queue_name, _)| *queue_name == QueueName::PollsNow);
            let asks = matches!(event, Event::Notice { .. } | Event::Ask);
            match event {
                Event::Notice { sent: Some(lag) } => {
                    let sent = FacebookTime(now.0 - lag);
                    notices.push(sent);
                    polling.record_notification(Some(sent), now, VERIFY_AFTER);
                }
                Event::Notice { sent: None } => {
                    wishes.push(now);
                    polling.record_notification(None, now, VERIFY_AFTER);
                }
                Event::Ask => {
                    wishes.push(now);
                    polling.request_read(now);
                }
                Event::Start => {
                    attempt = Some(now);
                    polling.begin_attempt(now);
                }
                Event::Succeed { lag } => if let Some(started) = attempt.take() {
                    let stamp = FacebookTime(now.0 - lag);
                    reads.push((started, stamp));
                    polling.complete_read(started, stamp, HostTime(now.0 + 86_400_000));
                },
                Event::Fail { pause } => if attempt.take().is_some() {
                    last_pause = HostTime(now.0 + pause);
                    polling.fail_attempt(last_pause);
                },
            }
            if let Some((_, due_before)) = due_before.filter(|_| asks) {
                let (_, due) = polling.due().expect("still due");
                prop_assert!(due <= due_before, "one more wish pushed the read away");
            }
        }
        let notice_open = notices.iter().any(|sent| !reads.iter().any(|(_, stamp)| *stamp > sent.plus(READ_STALENESS)));
        let wish_open = wishes.iter().any(|asked| !reads.iter().any(|(started, _)| started >= asked));
        if notice_open || wish_open {
            prop_assert!(polling.is_read_requested());
        }
        if polling.is_read_requested() {
            let (queue_name, at) = polling.due().expect("what is wanted is due");
            prop_assert_eq!(queue_name, QueueName::PollsNow);
            let bound = now.plus(Duration::from_secs(60)).max(last_pause);
            prop_assert!(at <= bound, "due {} but no later than {} is justified", at, bound);
        } else if let Some((queue_name, _)) = polling.due() {
            prop_assert_eq!(queue_name, QueueName::PollsDaily);
        }
    }
}

/// What a reader of changes knows, starting from nothing.
fn replay(
    page: &mut std::collections::BTreeMap<FieldName, Option<CanonicalValue>>,
    changes: &[crate::page::Change],
) {
    for change in changes {
        page.insert(change.field.clone(), change.after.clone());
    }
}

proptest! {
    /// P11: who replays the changes in their order holds the state, counters aside; P12: what was seen
    /// before is no change.
    #[test]
    fn replaying_changes_gives_the_state(seen in vec(observation(), 0..12)) {
        let mut page = Page::default();
        let mut known = std::collections::BTreeMap::new();
        for one in &seen {
            let changes: Vec<_> = page.apply_observation(one).into_iter().collect();
            replay(&mut known, &changes);
            prop_assert_eq!(page.apply_observation(one), None);
        }
        for (field, register) in &page.registers {
            if !field.is_counter() {
                prop_assert_eq!(&known.get(field).cloned().flatten(), &register.value);
            }
        }
    }
}
