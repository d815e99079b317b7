//! Local days and the slots of daily polls in them.
//!
//! Invariant: a subject has one slot in each local day of its time zone, whatever the clocks do that
//! night; which one is a function of its name.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use model::id::Subject;
use model::time::HostTime;
use sha2::{Digest as _, Sha256};

/// When a Page that a connection covers would be read by itself: only if the walk missed it.
pub const PAGE_SLOT_DELAY: Duration = Duration::from_secs(2 * 3600);

/// The days of a deployment.
#[derive(Debug, Clone)]
pub struct DailySchedule {
    zone: TimeZone,
    spread: Duration,
}

impl DailySchedule {
    /// Local days of `zone`; slots spread over `spread` from midnight.
    pub fn new(zone: TimeZone, spread: Duration) -> Self {
        Self { zone, spread }
    }

    /// The first slot of `subject` after `now`.
    pub fn next_slot(&self, subject: &Subject, now: HostTime) -> HostTime {
        let Some(local) = self.to_local(now) else {
            return now.plus(Duration::from_secs(24 * 3600));
        };
        let mut day = local.date();
        loop {
            match self.slot_of(subject, day) {
                Some(slot) if slot > now => return slot,
                _ => {}
            }
            let Ok(next) = day.tomorrow() else {
                return now.plus(Duration::from_secs(24 * 3600));
            };
            day = next;
        }
    }

    /// The slot of `subject` in the local day after the one of `now`.
    pub fn slot_on_next_day(&self, subject: &Subject, now: HostTime) -> HostTime {
        let tomorrow = self
            .to_local(now)
            .and_then(|local| local.date().tomorrow().ok());
        let slot = tomorrow.and_then(|day| self.slot_of(subject, day));
        slot.unwrap_or_else(|| now.plus(Duration::from_secs(24 * 3600)))
    }

    /// The slot of `subject` in a local day.
    fn slot_of(&self, subject: &Subject, day: Date) -> Option<HostTime> {
        // Where midnight does not exist the day begins at its first instant.
        let midnight = self.zone.to_zoned(day.at(0, 0, 0, 0)).ok()?;
        let start = u64::try_from(midnight.timestamp().as_millisecond()).ok()?;
        Some(HostTime(start).plus(self.offset(subject)))
    }

    /// How long after midnight the slot of a subject is: always less than the spread.
    fn offset(&self, subject: &Subject) -> Duration {
        let digest = Sha256::digest(subject.to_string());
        let hash = digest[..8]
            .iter()
            .fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
        let spread = u64::try_from(self.spread.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        Duration::from_millis(hash % spread)
    }

    /// The local day of an instant, `2026-11-22`.
    pub fn local_day(&self, at: HostTime) -> String {
        self.to_local(at)
            .map_or_else(String::new, |local| local.date().to_string())
    }

    /// The local days after the day of `from` and before the day of `to`, oldest first, at most
    /// `max` of the newest.
    pub fn local_days_between(&self, from: HostTime, to: HostTime, max: usize) -> Vec<String> {
        let (Some(from), Some(to)) = (self.to_local(from), self.to_local(to)) else {
            return Vec::new();
        };
        let mut days = Vec::new();
        let mut day = to.date().yesterday().unwrap_or(to.date());
        while day > from.date() && days.len() < max {
            days.push(day.to_string());
            let Ok(before) = day.yesterday() else { break };
            day = before;
        }
        days.reverse();
        days
    }

    fn to_local(&self, at: HostTime) -> Option<Zoned> {
        let instant = Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
        Some(instant.to_zoned(self.zone.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::id::UserId;

    fn days(zone: &str, spread_s: u64) -> DailySchedule {
        DailySchedule::new(TimeZone::get(zone).unwrap(), Duration::from_secs(spread_s))
    }

    fn at(text: &str) -> HostTime {
        let instant: Timestamp = text.parse().unwrap();
        HostTime(u64::try_from(instant.as_millisecond()).unwrap())
    }

    fn subject(n: u64) -> Subject {
        Subject::Connection(UserId::parse(&n.to_string()).unwrap())
    }

    /// The slots from `from` on, in so many days.
    fn run(days: &DailySchedule, from: HostTime, n: usize) -> Vec<String> {
        let mut now = from;
        let mut seen = Vec::new();
        for _ in 0..n {
            now = days.next_slot(&subject(7), now);
            seen.push(days.local_day(now));
        }
        seen
    }

    #[test]
    fn a_day_has_one_slot_also_when_the_clocks_change() {
        // Berlin loses an hour on 2026-03-29 and gains one on 2026-10-25; in Santiago midnight
        // itself is skipped on 2026-09-06; Lord Howe moves by half an hour.
        for (zone, from) in [
            ("Europe/Berlin", "2026-03-26T12:00:00Z"),
            ("Europe/Berlin", "2026-10-22T12:00:00Z"),
            ("America/Santiago", "2026-09-03T12:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-02T12:00:00Z"),
            ("UTC", "2026-12-29T12:00:00Z"),
        ] {
            for spread in [1, 3600, 23 * 3600] {
                let seen = run(&days(zone, spread), at(from), 7);
                let mut once = seen.clone();
                once.dedup();
                assert_eq!(seen, once, "{zone} {spread}");
                assert_eq!(seen.len(), 7);
            }
        }
    }

    #[test]
    fn slots_begin_at_local_midnight_and_spread() {
        let days = days("Europe/Berlin", 3600);
        let mut slots: Vec<HostTime> = (1..200)
            .map(|n| days.next_slot(&subject(n), at("2026-11-22T12:00:00Z")))
            .collect();
        slots.sort_unstable();
        assert!(slots[0] >= at("2026-11-22T23:00:00Z"));
        assert!(slots[198] < at("2026-11-23T00:00:00Z"));
        let half = slots
            .iter()
            .filter(|slot| **slot < at("2026-11-22T23:30:00Z"))
            .count();
        assert!((60..140).contains(&half), "{half} of 199 in the first half");
    }

    #[test]
    fn days_between_are_those_that_passed_whole() {
        let days = days("UTC", 1);
        let between = |from, to, max| days.local_days_between(at(from), at(to), max);
        assert!(between("2026-11-20T00:10:00Z", "2026-11-20T09:00:00Z", 30).is_empty());
        assert!(between("2026-11-20T00:10:00Z", "2026-11-21T09:00:00Z", 30).is_empty());
        let three = between("2026-11-20T00:10:00Z", "2026-11-24T09:00:00Z", 30);
        assert_eq!(three, ["2026-11-21", "2026-11-22", "2026-11-23"]);
        assert_eq!(
            between("2020-01-01T00:00:00Z", "2026-11-24T09:00:00Z", 30).len(),
            30
        );
    }
}
