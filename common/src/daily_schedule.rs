//! Computes local days and the daily slots in them.
//!
//! Invariant: a subject has exactly one daily slot in each local day of the time zone, even when
//! the clocks change. The time of the slot within the day is a function of the subject alone.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use model::id::Subject;
use model::time::HostTime;
use sha2::{Digest as _, Sha256};

/// The time between the daily slot of a connection and the daily slots of its Pages. A Page is read
/// alone in its slot only if the connection poll did not read it.
pub const PAGE_SLOT_DELAY: Duration = Duration::from_secs(2 * 3600);

/// The local days and the daily slots of a deployment.
#[derive(Debug, Clone)]
pub struct DailySchedule {
    zone: TimeZone,
    spread: Duration,
}

impl DailySchedule {
    /// Returns the schedule of the time zone `zone` with slots in the time `spread` after midnight.
    pub fn new(zone: TimeZone, spread: Duration) -> Self {
        Self { zone, spread }
    }

    /// Returns the first slot of `subject` after `now`.
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

    /// Returns the slot of `subject` in the local day after the local day of `now`.
    pub fn slot_on_next_day(&self, subject: &Subject, now: HostTime) -> HostTime {
        let tomorrow = self
            .to_local(now)
            .and_then(|local| local.date().tomorrow().ok());
        let slot = tomorrow.and_then(|day| self.slot_of(subject, day));
        slot.unwrap_or_else(|| now.plus(Duration::from_secs(24 * 3600)))
    }

    /// Returns the slot of `subject` in a local day, or `None` if the day is out of range.
    fn slot_of(&self, subject: &Subject, day: Date) -> Option<HostTime> {
        // If the clocks skip midnight, this is the first instant of the day.
        let midnight = self.zone.to_zoned(day.at(0, 0, 0, 0)).ok()?;
        let start = u64::try_from(midnight.timestamp().as_millisecond()).ok()?;
        Some(HostTime(start).plus(self.offset(subject)))
    }

    /// Returns the time between midnight and the slot of `subject`, which is less than the spread.
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

    /// Returns the first of the last `days` local days, of which the last one is that of `now`.
    pub fn first_of_days(&self, days: u32, now: HostTime) -> String {
        let back = u64::from(days.saturating_sub(1)) * 24 * 3600 * 1000;
        self.local_day(HostTime(now.0.saturating_sub(back)))
    }

    /// Returns the local day of an instant, as in `2026-11-22`, or an empty text if the instant is
    /// out of range.
    pub fn local_day(&self, at: HostTime) -> String {
        self.to_local(at)
            .map_or_else(String::new, |local| local.date().to_string())
    }

    /// Returns the local days between the day of `from` and the day of `to`, both excluded, the
    /// oldest first. If there are more than `max`, returns the newest.
    pub fn local_days_between(&self, from: HostTime, to: HostTime, max: usize) -> Vec<String> {
        let (Some(from), Some(to)) = (self.to_local(from), self.to_local(to)) else {
            return Vec::new();
        };
        let mut days = Vec::new();
        let mut day = to.date().yesterday().unwrap_or(to.date());
        while day > from.date() && days.len() < max {
            days.push(day.to_string());
            let Ok(previous) = day.yesterday() else {
                break;
            };
            day = previous;
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

    fn schedule(zone: &str, spread_seconds: u64) -> DailySchedule {
        let spread = Duration::from_secs(spread_seconds);
        DailySchedule::new(TimeZone::get(zone).unwrap(), spread)
    }

    fn at(text: &str) -> HostTime {
        let instant: Timestamp = text.parse().unwrap();
        HostTime(u64::try_from(instant.as_millisecond()).unwrap())
    }

    fn subject(n: u64) -> Subject {
        Subject::Connection(UserId::parse(&n.to_string()).unwrap())
    }

    /// Returns the local days of the next `n` slots after `from`.
    fn days_of_next_slots(schedule: &DailySchedule, from: HostTime, n: usize) -> Vec<String> {
        let mut now = from;
        let mut days = Vec::new();
        for _ in 0..n {
            now = schedule.next_slot(&subject(7), now);
            days.push(schedule.local_day(now));
        }
        days
    }

    #[test]
    fn a_day_has_one_slot_even_when_the_clocks_change() {
        // Berlin loses an hour on 2026-03-29 and gains one on 2026-10-25; Santiago skips midnight
        // on 2026-09-06; Lord Howe moves its clocks by half an hour.
        for (zone, from) in [
            ("Europe/Berlin", "2026-03-26T12:00:00Z"),
            ("Europe/Berlin", "2026-10-22T12:00:00Z"),
            ("America/Santiago", "2026-09-03T12:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-02T12:00:00Z"),
            ("UTC", "2026-12-29T12:00:00Z"),
        ] {
            for spread in [1, 3600, 23 * 3600] {
                let days = days_of_next_slots(&schedule(zone, spread), at(from), 7);
                let mut distinct = days.clone();
                distinct.dedup();
                assert_eq!(days, distinct, "{zone} {spread}");
                assert_eq!(days.len(), 7);
            }
        }
    }

    #[test]
    fn slots_are_spread_over_the_time_after_local_midnight() {
        let schedule = schedule("Europe/Berlin", 3600);
        let mut slots: Vec<HostTime> = (1..200)
            .map(|n| schedule.next_slot(&subject(n), at("2026-11-22T12:00:00Z")))
            .collect();
        slots.sort_unstable();
        assert!(slots[0] >= at("2026-11-22T23:00:00Z"));
        assert!(slots[198] < at("2026-11-23T00:00:00Z"));
        let in_first_half = slots
            .iter()
            .filter(|slot| **slot < at("2026-11-22T23:30:00Z"))
            .count();
        assert!(
            (60..140).contains(&in_first_half),
            "{in_first_half} of 199 are in the first half"
        );
    }

    #[test]
    fn the_days_between_two_instants_are_those_that_passed_completely() {
        let schedule = schedule("UTC", 1);
        let between = |from, to, max| schedule.local_days_between(at(from), at(to), max);
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
