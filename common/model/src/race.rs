//! A race simulation: changes, notices, reads and two clocks, on the real merge and due functions.
//!
//! Facebook's clock is the truth. A notice is stamped with the second it was *sent*, carries the value
//! of its change (not the newest one), and may arrive late, twice and out of order. A read may see a
//! value that is seconds old, and is stamped from its `Date`. Our clock is ahead, behind or right.
//! The final value must be the true one in every trial.

use std::time::Duration;

use serde_json::{Value, json};

use crate::field::FieldName;
use crate::page::{Observation, Page, Source};
use crate::polling::Polling;
use crate::read::read_stamp;
use crate::time::{FacebookTime, HostTime};
use crate::value::CanonicalValue;

const TRIALS: u64 = 20_000;
const START: u64 = 1_000_000_000;
const VERIFY_AFTER: Duration = Duration::from_secs(10);

/// One kind of bad day.
#[derive(Debug, Clone, Copy)]
struct Cell {
    /// How far our clock is ahead of Facebook's, in ms.
    skew: i64,
    /// How old a value may be that a read sees, in ms.
    stale: u64,
    /// One notice in ten is sent 30 to 300 s late.
    long: bool,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// A notice arrives: sent at this second, of the change with this number.
    Arrival { sent: u64, change: usize },
    /// A read nobody asked for.
    Read,
}

struct World {
    cell: Cell,
    chance: fastrand::Rng,
    /// When the field changed, and to what: its index.
    changes: Vec<u64>,
    page: Page,
    reads: u32,
}

fn name() -> FieldName {
    FieldName::parse("name").expect("a field name")
}

impl World {
    fn ours(&self, at: u64) -> HostTime {
        HostTime(at.saturating_add_signed(self.cell.skew))
    }

    /// The value at an instant of Facebook's clock.
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

    fn arrive(&mut self, now: u64, sent: u64, change: usize) {
        let value = CanonicalValue::from_json(&json!(change + 1));
        self.observe(value, FacebookTime(sent), Source::Webhook);
        let received = self.ours(now);
        self.page
            .polling
            .record_notification(Some(FacebookTime(sent)), received, VERIFY_AFTER);
    }

    /// A read that begins now; answers with when it ended.
    fn read(&mut self, now: u64) -> u64 {
        self.reads += 1;
        let begun = self.ours(now);
        let took = self.chance.u64(20..2000);
        let instant = now + self.chance.u64(0..=took);
        let seen = instant - self.chance.u64(0..=self.cell.stale);
        // The header is written after the read, in whole seconds.
        let written = self.chance.u64(instant..=now + took);
        let date = FacebookTime(written - written % 1000);
        let at = read_stamp(
            date,
            Duration::ZERO,
            Duration::from_millis(took),
            self.ours(now + took),
        );
        let at = at.expect("a plausible Date");
        assert!(at.0 <= instant, "P9: a stamp is never later than the read");
        let value = self.value_at(seen);
        self.page.polling.begin_attempt(begun);
        self.observe(value, at, Source::Poll);
        let slot = self.ours(now + 86_400_000);
        self.page.polling.complete_read(begun, at, slot);
        now + took
    }

    /// When the page is due on Facebook's clock, if anything is wanted.
    fn wanted_at(polling: &Polling, skew: i64) -> Option<u64> {
        let (_, at) = polling.due().filter(|_| polling.is_read_requested())?;
        Some(at.0.saturating_add_signed(-skew))
    }
}

/// Plays one trial; answers whether the final value is the true one, and with how many reads.
fn trial(cell: Cell, seed: u64) -> (bool, u32) {
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut changes: Vec<u64> = (0..chance.usize(1..=4))
        .map(|_| START + chance.u64(0..120_000))
        .collect();
    changes.sort_unstable();
    let mut events: Vec<(u64, What)> = vec![(START + chance.u64(0..150_000), What::Read)];
    for (change, at) in changes.iter().enumerate() {
        let late = cell.long && chance.f64() < 0.1;
        let delay = if late {
            chance.u64(30_000..300_000)
        } else {
            // Exponential with a mean of 3 s.
            u64::try_from(Duration::from_secs_f64(-3.0 * (1.0 - chance.f64()).ln()).as_millis())
                .unwrap_or(0)
        };
        let sent = at + delay;
        let copies = if chance.f64() < 0.1 { 2 } else { 1 };
        for _ in 0..copies {
            let arrives = sent + chance.u64(50..3000);
            let sent = sent - sent % 1000;
            events.push((arrives, What::Arrival { sent, change }));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    let mut world = World {
        cell,
        chance,
        changes,
        page: Page::default(),
        reads: 0,
    };
    let mut now = START;
    let mut events = events.into_iter().peekable();
    loop {
        let wanted = World::wanted_at(&world.page.polling, cell.skew).map(|at| at.max(now));
        let event = events.peek().map(|(at, _)| *at);
        match (wanted, event) {
            (None, None) => break,
            (Some(at), next) if next.is_none_or(|next| at < next) => {
                // The scheduler's tick and the queue.
                let lag = world.chance.u64(0..500);
                now = world.read(at + lag);
            }
            _ => {
                let Some((at, what)) = events.next() else {
                    break;
                };
                now = now.max(at);
                match what {
                    What::Arrival { sent, change } => world.arrive(now, sent, change),
                    What::Read => drop(world.read(now)),
                }
            }
        }
        assert!(world.reads < 100, "reads without end");
    }
    let stored = world
        .page
        .registers
        .get(&name())
        .and_then(|stored| stored.value.clone());
    (stored == world.value_at(u64::MAX), world.reads)
}

#[test]
fn no_final_value_is_wrong_whatever_the_clocks_delays_and_stale_reads() {
    for skew in [0, 30_000, -30_000] {
        for stale in [0, 5000] {
            for long in [false, true] {
                let cell = Cell { skew, stale, long };
                let wrong: Vec<u64> = (0..TRIALS).filter(|seed| !trial(cell, *seed).0).collect();
                assert!(
                    wrong.is_empty(),
                    "{cell:?}: {} of {TRIALS} wrong, first seed {}",
                    wrong.len(),
                    wrong[0]
                );
            }
        }
    }
}

/// The simulation must be able to fail: without the verification the same world has wrong values.
#[test]
fn without_the_last_word_of_a_read_values_are_wrong() {
    let cell = Cell {
        skew: 0,
        stale: 5000,
        long: true,
    };
    let wrong = (0..2000).filter(|seed| {
        let mut world = World {
            cell,
            chance: fastrand::Rng::with_seed(*seed),
            changes: vec![START, START + 10_000],
            page: Page::default(),
            reads: 0,
        };
        // The older change is sent after the newer one, as a tenth of them is.
        let late = world.chance.f64() < 0.1;
        let (first, second) = if late {
            (60_000, 11_000)
        } else {
            (1000, 11_000)
        };
        world.arrive(START + first, START + first, 0);
        world.arrive(START + second, START + second, 1);
        let stored = world
            .page
            .registers
            .get(&name())
            .and_then(|stored| stored.value.clone());
        stored != world.value_at(u64::MAX)
    });
    assert!(wrong.count() > 100);
}

fn seen(value: &Value, second: u64, source: Source) -> Observation {
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
fn reads_and_notices_around_a_change() {
    // I1: the read happened before the change, and is merged after the webhook.
    let mut page = Page::default();
    page.apply_observation(&seen(&json!("new"), 100, Source::Webhook));
    page.apply_observation(&seen(&json!("old"), 99, Source::Poll));
    assert_eq!(value(&page), json!("new"));
    // I2: the read happened after the change; its notice comes later, stamped older or newer.
    for sent in [98, 101] {
        let mut page = Page::default();
        page.apply_observation(&seen(&json!("new"), 100, Source::Poll));
        let change = page.apply_observation(&seen(&json!("new"), sent, Source::Webhook));
        assert_eq!((value(&page), change), (json!("new"), None));
    }
    // I3: two notices of one second, in both orders, each twice.
    let (a, b) = (
        seen(&json!("a"), 100, Source::Webhook),
        seen(&json!("b"), 100, Source::Webhook),
    );
    for order in [[&a, &b, &a, &b], [&b, &a, &b, &a], [&a, &a, &b, &b]] {
        let mut page = Page::default();
        for one in order {
            page.apply_observation(one);
        }
        assert_eq!(
            value(&page),
            json!("b"),
            "the greater one, whatever the order"
        );
    }
}

#[test]
fn a_notice_during_a_read_is_not_answered_by_it() {
    // I6: the read began, a notice arrives, the read ends: the notice is later than what it saw.
    let mut polling = Polling::default();
    polling.request_read(HostTime(100_000));
    polling.begin_attempt(HostTime(100_000));
    polling.record_notification(Some(FacebookTime(101_000)), HostTime(101_200), VERIFY_AFTER);
    polling.complete_read(HostTime(100_000), FacebookTime(100_000), HostTime(900_000));
    assert!(polling.is_read_requested());
    assert_eq!(
        polling.due().map(|(_, at)| at),
        Some(HostTime(160_000)),
        "a minute after the last attempt"
    );
    // I14: the daily walk reads late enough: the verification has nothing left to do.
    polling.complete_read(HostTime(150_000), FacebookTime(149_000), HostTime(900_000));
    assert!(!polling.is_read_requested());
}
