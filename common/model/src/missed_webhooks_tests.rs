//! Tests of the findings: fixed histories, and generated histories of changes with lost, delayed
//! and duplicate notifications, for which the correct counts are known.

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

/// Applies a read of one field at `second`, and returns the kind of its finding. Both clocks show
/// the same time.
fn read(page: &mut Page, name: &str, value: &Value, second: u64) -> Option<FindingKind> {
    let requested = [field(name)];
    let object = json!({ name: value });
    let outcome = page.apply_read(&PageRead {
        requested_fields: &requested,
        object: object.as_object().unwrap(),
        stamp: FacebookTime(second * 1000),
        kind: ReadKind::SinglePage,
        now: HostTime(second * 1000),
    });
    outcome.findings.first().map(|finding| finding.kind)
}

/// Applies a notification sent at `second`, and returns the kind of its finding.
fn notify(page: &mut Page, name: &str, second: u64, value: Option<&str>) -> Option<FindingKind> {
    let field = field(name);
    let stamp = FacebookTime(second * 1000);
    let observation = value.map(|value| Observation {
        field: field.clone(),
        value: CanonicalValue::from_json(&json!(value)),
        stamp,
        source: Source::Webhook,
    });
    let (_, finding) = page.apply_webhook(&field, Some(stamp), observation.as_slice());
    finding.map(|finding| finding.kind)
}

/// The change that the read at second `read` found, if the previous read was at `previous_read`.
fn change(previous_read: u64, read: u64) -> UnannouncedChange {
    UnannouncedChange {
        previous_read_stamp: FacebookTime(previous_read * 1000),
        found_stamp: FacebookTime(read * 1000),
        unchanged_until: FacebookTime(read * 1000),
        found_at: HostTime(read * 1000),
    }
}

/// The same change after reads up to second `until` found no other change.
fn change_until(previous_read: u64, read: u64, until: u64) -> UnannouncedChange {
    UnannouncedChange {
        unchanged_until: FacebookTime(until * 1000),
        ..change(previous_read, read)
    }
}

#[test]
fn an_announced_change_is_captured_with_or_without_a_value() {
    for value in [None, Some("new")] {
        let mut page = Page::default();
        assert_eq!(
            read(&mut page, "name", &json!("old"), 100),
            Some(FindingKind::Initial)
        );
        assert_eq!(notify(&mut page, "name", 200, value), None);
        assert_eq!(
            read(&mut page, "name", &json!("new"), 210),
            Some(FindingKind::Captured)
        );
        assert_eq!(read(&mut page, "name", &json!("new"), 300), None);
        assert!(
            page.announcements.is_empty(),
            "a notification or change is still open: {:?}",
            page.announcements
        );
    }
}

#[test]
fn an_unannounced_change_becomes_late_when_its_notification_arrives() {
    for sent in [150, 200, 205] {
        let mut page = Page::default();
        read(&mut page, "phone", &json!("1"), 100);
        let found = read(&mut page, "phone", &json!("2"), 200);
        assert_eq!(found, Some(FindingKind::Unannounced(change(100, 200))));
        assert!(!page.is_silent(HostTime(200_000)));
        assert!(page.is_silent(HostTime((200 + HOUR) * 1000)));
        // If the notification was sent after the read that found the change, the next read decides.
        let at_once = notify(&mut page, "phone", sent, None);
        let at_next_read = read(&mut page, "phone", &json!("2"), 300);
        let until = if sent < 200 { 200 } else { 300 };
        let late = Some(FindingKind::Late(change_until(100, 200, until)));
        assert_eq!(at_once.or(at_next_read), late, "sent at {sent}");
        assert!(page.announcements.is_empty(), "{:?}", page.announcements);
    }
}

#[test]
fn a_duplicate_of_an_earlier_notification_matches_no_later_change() {
    let mut page = Page::default();
    read(&mut page, "phone", &json!("1"), 100);
    notify(&mut page, "phone", 150, None);
    assert_eq!(
        read(&mut page, "phone", &json!("2"), 200),
        Some(FindingKind::Captured)
    );
    assert_eq!(
        read(&mut page, "phone", &json!("3"), 300),
        Some(FindingKind::Unannounced(change(200, 300)))
    );
    assert_eq!(
        notify(&mut page, "phone", 150, None),
        None,
        "the notification belongs to the previous change"
    );
    assert_eq!(read(&mut page, "phone", &json!("3"), 400), None);
    assert_eq!(
        notify(&mut page, "phone", 250, None),
        Some(FindingKind::Late(change_until(200, 300, 400)))
    );
}

#[test]
fn a_stale_read_does_not_answer_a_notification() {
    let mut page = Page::default();
    read(&mut page, "phone", &json!("1"), 100);
    notify(&mut page, "phone", 150, None);
    assert_eq!(
        read(&mut page, "phone", &json!("1"), 153),
        None,
        "Graph still returns the old value"
    );
    assert_eq!(
        read(&mut page, "phone", &json!("2"), 170),
        Some(FindingKind::Captured)
    );
}

#[test]
fn a_stale_read_that_replaces_the_value_of_a_webhook_is_not_counted() {
    let mut page = Page::default();
    read(&mut page, "name", &json!("old"), 100);
    notify(&mut page, "name", 150, Some("new"));
    assert_eq!(read(&mut page, "name", &json!("old"), 153), None);
    let finding = read(&mut page, "name", &json!("new"), 220);
    assert_eq!(finding, Some(FindingKind::Captured));
    assert_eq!(read(&mut page, "name", &json!("new"), 300), None);
    assert!(page.announcements.is_empty(), "{:?}", page.announcements);
}

#[test]
fn a_notification_sent_just_before_a_stale_read_stays_open() {
    let mut page = Page::default();
    read(&mut page, "phone", &json!("1"), 100);
    assert_eq!(read(&mut page, "phone", &json!("1"), 152), None);
    assert_eq!(notify(&mut page, "phone", 151, None), None);
    let finding = read(&mut page, "phone", &json!("2"), 220);
    assert_eq!(finding, Some(FindingKind::Captured));
}

#[test]
fn a_later_notification_does_not_hide_an_earlier_one_that_a_read_answers() {
    let mut page = Page::default();
    read(&mut page, "phone", &json!("1"), 100);
    notify(&mut page, "phone", 150, None);
    notify(&mut page, "phone", 201, None);
    // The stamp of a read is a lower bound: the read may still run when a later notification
    // arrives.
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
fn an_older_read_that_arrives_later_has_no_finding() {
    let mut page = Page::default();
    read(&mut page, "phone", &json!("1"), 100);
    notify(&mut page, "phone", 150, None);
    assert_eq!(
        read(&mut page, "phone", &json!("2"), 200),
        Some(FindingKind::Captured)
    );
    assert_eq!(read(&mut page, "phone", &json!("1"), 140), None);
    assert_eq!(read(&mut page, "phone", &json!("2"), 300), None);
}

#[test]
fn a_change_without_a_webhook_is_unannounceable_and_counters_have_no_findings() {
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
fn a_notification_without_a_time_announces_the_next_change_or_the_last_unannounced_one() {
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
        finding.map(|finding| finding.kind),
        Some(FindingKind::Late(change(200, 300)))
    );
}

/// A change by the owner, and the delivery of its notification. Times are in steps of two seconds.
#[derive(Debug, Clone)]
struct OwnerChange {
    /// The time since the previous change.
    after: u64,
    /// Whether the notification is lost.
    lost: bool,
    /// The time until the notification is delivered.
    delay: u64,
    /// The time until a duplicate is delivered, if there is one.
    duplicate_delay: Option<u64>,
    /// Whether the notification carries the value.
    has_value: bool,
}

fn owner_change() -> impl Strategy<Value = OwnerChange> {
    let delay = prop_oneof![Just(0), 0..20u64, 0..900u64];
    (
        1..400u64,
        any::<bool>(),
        delay,
        proptest::option::of(0..2000u64),
        any::<bool>(),
    )
        .prop_map(
            |(after, lost, delay, duplicate_delay, has_value)| OwnerChange {
                after,
                lost,
                delay,
                duplicate_delay,
                has_value,
            },
        )
}

/// An event of a generated history.
enum Event {
    Notification { sent: u64, value: Option<String> },
    Read,
}

proptest! {
    /// The correct counts follow from the intervals between two reads. If the field changed in an
    /// interval, one change is counted, and it is missed if all its notifications were lost.
    #[test]
    fn exactly_the_changes_whose_notifications_were_lost_stay_unannounced(
        changes in vec(owner_change(), 1..12),
        read_interval in 15..350u64,
    ) {
        let mut events: Vec<(u64, Event)> = Vec::new();
        let mut values = vec![(0, "0".to_owned())];
        let mut at = 1000;
        let mut change_times = Vec::new();
        for (n, change) in changes.iter().enumerate() {
            // Changes are at even seconds and reads at odd ones, because the order of events within
            // one second is not defined.
            at += 2 * change.after;
            let value = (n + 1).to_string();
            values.push((at, value.clone()));
            change_times.push((at, change.lost));
            if change.lost { continue; }
            for delay in std::iter::once(change.delay).chain(change.duplicate_delay) {
                let value = change.has_value.then(|| value.clone());
                events.push((at + 2 * delay, Event::Notification { sent: at, value }));
            }
        }
        let end = at + 4000;
        // A read shortly after a webhook with a value may be stale and is not counted, so the
        // history has no such reads.
        let is_clear = |at: &u64| !change_times.iter().any(|(change, _)| (*change..*change + 6).contains(at));
        let reads: Vec<u64> = (0..end).map(|n| 901 + 2 * n * read_interval).take_while(|t| *t < end).filter(is_clear).collect();
        events.extend(reads.iter().map(|at| (*at, Event::Read)));
        events.sort_by_key(|(at, _)| *at);
        let value_at = |at: u64| values.iter().rfind(|(since, _)| *since <= at).unwrap().1.clone();
        let mut page = Page::default();
        let (mut captured, mut late, mut unannounced) = (0, 0, 0);
        for (at, event) in events {
            let finding = match event {
                Event::Notification { sent, value } => notify(&mut page, "name", sent, value.as_deref()),
                Event::Read => read(&mut page, "name", &json!(value_at(at)), at),
            };
            match finding {
                Some(FindingKind::Captured) => captured += 1,
                Some(FindingKind::Late(_)) => late += 1,
                Some(FindingKind::Unannounced(_)) => unannounced += 1,
                _ => {}
            }
        }
        let (mut with_change, mut all_lost) = (0, 0);
        for pair in reads.windows(2) {
            let within: Vec<bool> = change_times.iter()
                .filter(|(at, _)| pair[0] < *at && *at <= pair[1])
                .map(|(_, lost)| *lost)
                .collect();
            if within.is_empty() { continue; }
            with_change += 1;
            all_lost += u64::from(within.iter().all(|lost| *lost));
        }
        prop_assert_eq!(captured + unannounced, with_change, "every interval with a change is counted once");
        prop_assert_eq!(unannounced - late, all_lost, "only changes without a notification stay unannounced");
    }
}
