//! The meter against made-up histories, and against a simulated world of changes, losses, delays and
//! duplicates in which the truth is known.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::read::{PageRead, ReadKind};
use crate::value::CanonicalValue;

const HOUR: u64 = 3600;

fn field(name: &str) -> FieldName {
    FieldName::parse(name).unwrap()
}

/// A read of one field at a second of Facebook's clock; ours is the same.
fn read(page: &mut Page, name: &str, value: &Value, second: u64) -> Option<FindingKind> {
    let asked = [field(name)];
    let object = json!({ name: value });
    let outcome = page.apply_read(&PageRead {
        requested_fields: &asked,
        object: object.as_object().unwrap(),
        stamp: FacebookTime(second * 1000),
        kind: ReadKind::PageToken,
        now: HostTime(second * 1000),
    });
    outcome.findings.first().map(|finding| finding.kind)
}

fn hear(page: &mut Page, name: &str, second: u64, value: Option<&str>) -> Option<FindingKind> {
    let field = field(name);
    let stamp = FacebookTime(second * 1000);
    let seen = value.map(|value| Observation {
        field: field.clone(),
        value: CanonicalValue::from_json(&json!(value)),
        stamp,
        source: Source::Webhook,
    });
    let (_, finding) = page.apply_webhook(&field, Some(stamp), seen.as_slice());
    finding.map(|finding| finding.kind)
}

fn gap(since: u64, read: u64) -> UnannouncedChange {
    UnannouncedChange {
        previous_read: FacebookTime(since * 1000),
        found_by_read: FacebookTime(read * 1000),
        unchanged_until: FacebookTime(read * 1000),
        found_at: HostTime(read * 1000),
    }
}

/// The same gap after reads up to `until` found nothing else.
fn gap_until(since: u64, read: u64, until: u64) -> UnannouncedChange {
    UnannouncedChange {
        unchanged_until: FacebookTime(until * 1000),
        ..gap(since, read)
    }
}

#[test]
fn what_was_announced_and_changed_is_captured_with_or_without_a_value() {
    for value in [None, Some("new")] {
        let mut page = Page::default();
        assert_eq!(
            read(&mut page, "name", &json!("old"), 100),
            Some(FindingKind::Initial)
        );
        assert_eq!(hear(&mut page, "name", 200, value), None);
        assert_eq!(
            read(&mut page, "name", &json!("new"), 210),
            Some(FindingKind::Captured)
        );
        assert_eq!(read(&mut page, "name", &json!("new"), 300), None);
        assert!(
            page.announcements.is_empty(),
            "nothing stays open: {:?}",
            page.announcements
        );
    }
}

#[test]
fn what_nobody_announced_is_a_gap_and_late_once_its_notice_comes() {
    for sent in [150, 200, 205] {
        let mut page = Page::default();
        read(&mut page, "phone", &json!("1"), 100);
        let found = read(&mut page, "phone", &json!("2"), 200);
        assert_eq!(found, Some(FindingKind::Unannounced(gap(100, 200))));
        assert!(!page.is_silent(HostTime(200_000)));
        assert!(page.is_silent(HostTime((200 + HOUR) * 1000)));
        // Sent before the read that found it, or a little later: then the next read tells.
        let at_once = hear(&mut page, "phone", sent, None);
        let then = read(&mut page, "phone", &json!("2"), 300);
        let until = if sent < 200 { 200 } else { 300 };
        let late = Some(FindingKind::Late(gap_until(100, 200, until)));
        assert_eq!(at_once.or(then), late, "sent at {sent}");
        assert!(page.announcements.is_empty(), "{:?}", page.announcements);
    }
}

#[test]
fn a_duplicate_of_an_earlier_notice_settles_nothing() {
    let mut page = Page::default();
    read(&mut page, "phone", &json!("1"), 100);
    hear(&mut page, "phone", 150, None);
    assert_eq!(
        read(&mut page, "phone", &json!("2"), 200),
        Some(FindingKind::Captured)
    );
    assert_eq!(
        read(&mut page, "phone", &json!("3"), 300),
        Some(FindingKind::Unannounced(gap(200, 300)))
    );
    assert_eq!(
        hear(&mut page, "phone", 150, None),
        None,
        "the notice of the change before"
    );
    assert_eq!(read(&mut page, "phone", &json!("3"), 400), None);
    assert_eq!(
        hear(&mut page, "phone", 250, None),
        Some(FindingKind::Late(gap_until(200, 300, 400)))
    );
}

#[test]
fn a_stale_answer_does_not_use_a_notice_up() {
    let mut page = Page::default();
    read(&mut page, "phone", &json!("1"), 100);
    hear(&mut page, "phone", 150, None);
    assert_eq!(
        read(&mut page, "phone", &json!("1"), 153),
        None,
        "Graph still serves the old value"
    );
    assert_eq!(
        read(&mut page, "phone", &json!("2"), 170),
        Some(FindingKind::Captured)
    );
}

#[test]
fn a_stale_answer_that_takes_a_webhooks_value_back_does_not_count() {
    let mut page = Page::default();
    read(&mut page, "name", &json!("old"), 100);
    hear(&mut page, "name", 150, Some("new"));
    assert_eq!(read(&mut page, "name", &json!("old"), 153), None);
    let then = read(&mut page, "name", &json!("new"), 220);
    assert_eq!(then, Some(FindingKind::Captured));
    assert_eq!(read(&mut page, "name", &json!("new"), 300), None);
    assert!(page.announcements.is_empty(), "{:?}", page.announcements);
}

#[test]
fn a_notice_sent_just_before_a_stale_read_still_announces() {
    let mut page = Page::default();
    read(&mut page, "phone", &json!("1"), 100);
    assert_eq!(read(&mut page, "phone", &json!("1"), 152), None);
    assert_eq!(hear(&mut page, "phone", 151, None), None);
    let then = read(&mut page, "phone", &json!("2"), 220);
    assert_eq!(then, Some(FindingKind::Captured));
}

#[test]
fn a_later_notice_does_not_hide_the_one_a_read_answers() {
    let mut page = Page::default();
    read(&mut page, "phone", &json!("1"), 100);
    hear(&mut page, "phone", 150, None);
    hear(&mut page, "phone", 201, None);
    // The stamp of a read is a lower bound: it was under way when the second notice came.
    assert_eq!(
        read(&mut page, "phone", &json!("2"), 200),
        Some(FindingKind::Captured)
    );
    assert_eq!(
        read(&mut page, "phone", &json!("3"), 300),
        Some(FindingKind::Captured)
    );
    assert_eq!(read(&mut page, "phone", &json!("3"), 400), None);
    assert!(page.announcements.is_empty(), "{:?}", page.announcements);
}

#[test]
fn an_older_read_that_arrives_later_says_nothing() {
    let mut page = Page::default();
    read(&mut page, "phone", &json!("1"), 100);
    hear(&mut page, "phone", 150, None);
    assert_eq!(
        read(&mut page, "phone", &json!("2"), 200),
        Some(FindingKind::Captured)
    );
    assert_eq!(read(&mut page, "phone", &json!("1"), 140), None);
    assert_eq!(read(&mut page, "phone", &json!("2"), 300), None);
}

#[test]
fn what_has_no_webhook_is_unannounceable_and_counters_are_left_out() {
    let mut page = Page::default();
    read(&mut page, "about", &json!("a"), 100);
    assert_eq!(
        read(&mut page, "about", &json!("b"), 200),
        Some(FindingKind::Unannounceable)
    );
    read(&mut page, "fan_count", &json!(1), 100);
    assert_eq!(read(&mut page, "fan_count", &json!(2), 200), None);
}

#[test]
fn a_notice_without_a_time_announces_what_the_next_read_finds() {
    let mut page = Page::default();
    read(&mut page, "phone", &json!("1"), 100);
    page.apply_webhook(&field("phone"), None, &[]);
    assert_eq!(
        read(&mut page, "phone", &json!("2"), 200),
        Some(FindingKind::Captured)
    );
    read(&mut page, "phone", &json!("3"), 300);
    let (_, finding) = page.apply_webhook(&field("phone"), None, &[]);
    assert_eq!(
        finding.map(|found| found.kind),
        Some(FindingKind::Late(gap(200, 300)))
    );
}

/// One change of the owner, and what became of its notice.
#[derive(Debug, Clone)]
struct Owned {
    /// Seconds after the change before.
    after: u64,
    lost: bool,
    /// Seconds until the notice is delivered, and whether once more, later.
    delay: u64,
    again: Option<u64>,
    valued: bool,
}

fn owned() -> impl Strategy<Value = Owned> {
    let delay = prop_oneof![Just(0), 0..20u64, 0..900u64];
    (
        1..400u64,
        any::<bool>(),
        delay,
        proptest::option::of(0..2000u64),
        any::<bool>(),
    )
        .prop_map(|(after, lost, delay, again, valued)| Owned {
            after,
            lost,
            delay,
            again,
            valued,
        })
}

enum What {
    Notice { sent: u64, value: Option<String> },
    Read,
}

proptest! {
    /// The truth: in each interval between two reads that both saw the field, something changed or
    /// nothing did, and at least one of its notices was delivered or none was.
    #[test]
    fn a_lost_notice_is_a_gap_and_a_delivered_one_never_stays_one(
        changes in vec(owned(), 1..12),
        every in 15..350u64,
    ) {
        let mut events: Vec<(u64, What)> = Vec::new();
        let mut values = vec![(0, "0".to_owned())];
        let mut at = 1000;
        let mut sent_at = Vec::new();
        for (n, change) in changes.iter().enumerate() {
            // Changes at even seconds, reads at odd ones: within one second the order is unknown.
            at += 2 * change.after;
            let value = (n + 1).to_string();
            values.push((at, value.clone()));
            sent_at.push((at, change.lost));
            if change.lost { continue; }
            for delay in std::iter::once(change.delay).chain(change.again) {
                let value = change.valued.then(|| value.clone());
                events.push((at + 2 * delay, What::Notice { sent: at, value }));
            }
        }
        let end = at + 4000;
        // A read shortly after a webhook's value may be an older answer: it does not count then.
        let is_clear = |at: &u64| !sent_at.iter().any(|(change, _)| (*change..*change + 6).contains(at));
        let reads: Vec<u64> = (0..end).map(|n| 901 + 2 * n * every).take_while(|t| *t < end).filter(is_clear).collect();
        events.extend(reads.iter().map(|at| (*at, What::Read)));
        events.sort_by_key(|(at, _)| *at);
        let current = |at: u64| values.iter().rfind(|(since, _)| *since <= at).unwrap().1.clone();
        let mut page = Page::default();
        let (mut captured, mut late, mut opened) = (0, 0, 0);
        for (at, what) in events {
            let event = match what {
                What::Notice { sent, value } => hear(&mut page, "name", sent, value.as_deref()),
                What::Read => read(&mut page, "name", &json!(current(at)), at),
            };
            match event {
                Some(FindingKind::Captured) => captured += 1,
                Some(FindingKind::Late(_)) => late += 1,
                Some(FindingKind::Unannounced(_)) => opened += 1,
                _ => {}
            }
        }
        let mut intervals = (0, 0);
        for pair in reads.windows(2) {
            let within: Vec<bool> = sent_at.iter()
                .filter(|(at, _)| pair[0] < *at && *at <= pair[1])
                .map(|(_, lost)| *lost)
                .collect();
            if within.is_empty() { continue; }
            intervals.0 += 1;
            intervals.1 += u64::from(within.iter().all(|lost| *lost));
        }
        prop_assert_eq!(captured + opened, intervals.0, "every interval with a change is one of the two");
        prop_assert_eq!(opened - late, intervals.1, "exactly the unannounced stay open");
    }
}
