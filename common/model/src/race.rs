//! A simulation of races between changes, notifications and reads, with the real functions for
//! merging and due times.
//!
//! Events happen on Facebook's clock. A notification has the second at which it was *sent* as its
//! time, carries the value of its change even if there is a newer one, and may arrive late, twice
//! and out of order. A read may return a value that is seconds old; its stamp is derived from its
//! `Date`. This host's clock is ahead, behind or correct. In every trial the final value must be
//! the current one.

use std::time::Duration;

use serde_json::{Value, json};

use crate::field::FieldName;
use crate::page::{Observation, Page, Source};
use crate::polling::Polling;
use crate::read::read_stamp;
use crate::time::{FacebookTime, HostTime};
use crate::value::CanonicalValue;

/// How many trials run in each combination of conditions.
const TRIALS: u64 = 20_000;
/// When a trial begins, on Facebook's clock.
const START: u64 = 1_000_000_000;
const VERIFY_AFTER: Duration = Duration::from_secs(10);

/// The conditions of a trial.
#[derive(Debug, Clone, Copy)]
struct Conditions {
    /// How far this host's clock is ahead of Facebook's, in milliseconds.
    clock_offset: i64,
    /// The maximum age of a value that a read returns, in milliseconds.
    staleness: u64,
    /// Whether one notification in ten is sent 30 to 300 seconds late.
    late_notifications: bool,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// A notification of the change with the index `change` arrives. It was sent at `sent`.
    Arrival { sent: u64, change: usize },
    /// A read that was not requested begins.
    Read,
}

struct Simulation {
    conditions: Conditions,
    rng: fastrand::Rng,
    /// When the field changed. The n-th change sets the field to n.
    changes: Vec<u64>,
    page: Page,
    reads: u32,
}

fn name() -> FieldName {
    FieldName::parse("name").expect("a field name")
}

impl Simulation {
    /// Returns the time on this host's clock when Facebook's clock shows `at`.
    fn host_time(&self, at: u64) -> HostTime {
        HostTime(at.saturating_add_signed(self.conditions.clock_offset))
    }

    /// Returns the value of the field at `at`, on Facebook's clock.
    fn value_at(&self, at: u64) -> Option<CanonicalValue> {
        let n = self.changes.iter().filter(|change| **change <= at).count();
        CanonicalValue::from_json(&json!(n))
    }

    fn observe(&mut self, value: Option<CanonicalValue>, stamp: FacebookTime, source: Source) {
        self.page.apply_observation(&Observation {
            field: name(),
            value,
            stamp,
            source,
        });
    }

    /// Applies a notification that arrives at `now`.
    fn arrive(&mut self, now: u64, sent: u64, change: usize) {
        let value = CanonicalValue::from_json(&json!(change + 1));
        self.observe(value, FacebookTime(sent), Source::Webhook);
        let received = self.host_time(now);
        self.page
            .polling
            .record_notification(Some(FacebookTime(sent)), received, VERIFY_AFTER);
    }

    /// Performs a read that begins at `now`, and returns when it ends.
    fn read(&mut self, now: u64) -> u64 {
        self.reads += 1;
        let began_at = self.host_time(now);
        let took = self.rng.u64(20..2000);
        let answered_at = now + self.rng.u64(0..=took);
        let value_from = answered_at - self.rng.u64(0..=self.conditions.staleness);
        // Graph writes the header after it has read the value, in whole seconds.
        let date_written_at = self.rng.u64(answered_at..=now + took);
        let date = FacebookTime(date_written_at - date_written_at % 1000);
        let stamp = read_stamp(
            date,
            Duration::ZERO,
            Duration::from_millis(took),
            self.host_time(now + took),
        );
        let stamp = stamp.expect("a plausible Date");
        assert!(stamp.0 <= answered_at, "the stamp is later than the read");
        let value = self.value_at(value_from);
        self.page.polling.begin_attempt(began_at);
        self.observe(value, stamp, Source::Poll);
        let slot = self.host_time(now + 86_400_000);
        self.page.polling.complete_read(began_at, stamp, slot);
        now + took
    }

    /// Returns when the next read is due, on Facebook's clock, if a notification or a request is
    /// open.
    fn next_read_at(polling: &Polling, clock_offset: i64) -> Option<u64> {
        let (_, at) = polling
            .due()
            .filter(|_| polling.has_open_notification_or_request())?;
        Some(at.0.saturating_add_signed(-clock_offset))
    }
}

/// Runs one trial. Returns whether the final value is the current one, and the number of reads.
fn run_trial(conditions: Conditions, seed: u64) -> (bool, u32) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut changes: Vec<u64> = (0..rng.usize(1..=4))
        .map(|_| START + rng.u64(0..120_000))
        .collect();
    changes.sort_unstable();
    let mut events: Vec<(u64, Event)> = vec![(START + rng.u64(0..150_000), Event::Read)];
    for (change, at) in changes.iter().enumerate() {
        let is_late = conditions.late_notifications && rng.f64() < 0.1;
        let delay = if is_late {
            rng.u64(30_000..300_000)
        } else {
            // The delay is exponentially distributed with a mean of 3 seconds.
            u64::try_from(Duration::from_secs_f64(-3.0 * (1.0 - rng.f64()).ln()).as_millis())
                .unwrap_or(0)
        };
        let sent = at + delay;
        let copies = if rng.f64() < 0.1 { 2 } else { 1 };
        for _ in 0..copies {
            let arrives = sent + rng.u64(50..3000);
            let sent = sent - sent % 1000;
            events.push((arrives, Event::Arrival { sent, change }));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    let mut simulation = Simulation {
        conditions,
        rng,
        changes,
        page: Page::default(),
        reads: 0,
    };
    let mut now = START;
    let mut events = events.into_iter().peekable();
    loop {
        let next_read = Simulation::next_read_at(&simulation.page.polling, conditions.clock_offset)
            .map(|at| at.max(now));
        let next_event = events.peek().map(|(at, _)| *at);
        match (next_read, next_event) {
            (None, None) => break,
            (Some(at), next_event) if next_event.is_none_or(|event| at < event) => {
                // The scheduler and the queue delay the read.
                let lag = simulation.rng.u64(0..500);
                now = simulation.read(at + lag);
            }
            _ => {
                let Some((at, event)) = events.next() else {
                    break;
                };
                now = now.max(at);
                match event {
                    Event::Arrival { sent, change } => simulation.arrive(now, sent, change),
                    Event::Read => drop(simulation.read(now)),
                }
            }
        }
        assert!(simulation.reads < 100, "the reads do not end");
    }
    let stored = simulation
        .page
        .registers
        .get(&name())
        .and_then(|stored| stored.value.clone());
    (stored == simulation.value_at(u64::MAX), simulation.reads)
}

#[test]
fn the_final_value_is_right_despite_wrong_clocks_delays_and_stale_reads() {
    for clock_offset in [0, 30_000, -30_000] {
        for staleness in [0, 5000] {
            for late_notifications in [false, true] {
                let conditions = Conditions {
                    clock_offset,
                    staleness,
                    late_notifications,
                };
                let wrong: Vec<u64> = (0..TRIALS)
                    .filter(|seed| !run_trial(conditions, *seed).0)
                    .collect();
                assert!(
                    wrong.is_empty(),
                    "{conditions:?}: {} of {TRIALS} wrong, first seed {}",
                    wrong.len(),
                    wrong[0]
                );
            }
        }
    }
}

/// Without verification reads the same conditions lead to wrong values, so the simulation can fail.
#[test]
fn without_verification_reads_some_final_values_are_wrong() {
    let conditions = Conditions {
        clock_offset: 0,
        staleness: 5000,
        late_notifications: true,
    };
    let wrong = (0..2000).filter(|seed| {
        let mut simulation = Simulation {
            conditions,
            rng: fastrand::Rng::with_seed(*seed),
            changes: vec![START, START + 10_000],
            page: Page::default(),
            reads: 0,
        };
        // In one trial of ten the notification of the older change is sent after that of the newer
        // one.
        let is_late = simulation.rng.f64() < 0.1;
        let (first, second) = if is_late {
            (60_000, 11_000)
        } else {
            (1000, 11_000)
        };
        simulation.arrive(START + first, START + first, 0);
        simulation.arrive(START + second, START + second, 1);
        let stored = simulation
            .page
            .registers
            .get(&name())
            .and_then(|stored| stored.value.clone());
        stored != simulation.value_at(u64::MAX)
    });
    assert!(wrong.count() > 100);
}

fn observation(value: &Value, second: u64, source: Source) -> Observation {
    Observation {
        field: name(),
        value: CanonicalValue::from_json(value),
        stamp: FacebookTime(second * 1000),
        source,
    }
}

fn value(page: &Page) -> Value {
    page.registers[&name()]
        .value
        .as_ref()
        .map_or(Value::Null, CanonicalValue::to_json)
}

#[test]
fn reads_and_notifications_around_a_change_merge_in_any_order() {
    // The webhook is merged first, then a read from before the change.
    let mut page = Page::default();
    page.apply_observation(&observation(&json!("new"), 100, Source::Webhook));
    page.apply_observation(&observation(&json!("old"), 99, Source::Poll));
    assert_eq!(value(&page), json!("new"));
    // The notification arrives after a read that returned the new value. The time of the
    // notification is earlier or later than the read.
    for sent in [98, 101] {
        let mut page = Page::default();
        page.apply_observation(&observation(&json!("new"), 100, Source::Poll));
        let change = page.apply_observation(&observation(&json!("new"), sent, Source::Webhook));
        assert_eq!((value(&page), change), (json!("new"), None));
    }
    // Two notifications of the same second arrive twice each, in several orders.
    let (a, b) = (
        observation(&json!("a"), 100, Source::Webhook),
        observation(&json!("b"), 100, Source::Webhook),
    );
    for order in [[&a, &b, &a, &b], [&b, &a, &b, &a], [&a, &a, &b, &b]] {
        let mut page = Page::default();
        for observation in order {
            page.apply_observation(observation);
        }
        assert_eq!(
            value(&page),
            json!("b"),
            "the greater value wins in any order"
        );
    }
}

#[test]
fn a_notification_that_arrives_during_a_read_is_not_answered_by_it() {
    // The read may have returned the value from before the notification.
    let mut polling = Polling::default();
    polling.request_read(HostTime(100_000));
    polling.begin_attempt(HostTime(100_000));
    polling.record_notification(Some(FacebookTime(101_000)), HostTime(101_200), VERIFY_AFTER);
    polling.complete_read(HostTime(100_000), FacebookTime(100_000), HostTime(900_000));
    assert!(polling.has_open_notification_or_request());
    assert_eq!(
        polling.due().map(|(_, at)| at),
        Some(HostTime(160_000)),
        "a minute after the last attempt"
    );
    // A connection poll that is late enough answers the notification without a verification read.
    polling.complete_read(HostTime(150_000), FacebookTime(149_000), HostTime(900_000));
    assert!(!polling.has_open_notification_or_request());
}
