//! When a Page is due for a read: one pure function of the Page's own numbers.
//!
//! Invariant: what makes a read wanted is cleared by one thing only, a read that happened late
//! enough to answer it. Nothing is ever ticked off, so nothing can be lost by ticking off.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::queue_name::QueueName;
use crate::time::{FacebookTime, HostTime};

/// A notice is answered by a read at least this much later than the notice was sent: Graph may
/// serve a value that is a few seconds old.
pub const READ_STALENESS: Duration = Duration::from_secs(5);
/// Two attempts to read the same Page are at least this far apart.
pub const MIN_ATTEMPT_INTERVAL: Duration = Duration::from_secs(60);

/// The numbers behind [`Polling::due`]. `need` and `read` are on Facebook's clock, the rest on ours.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Polling {
    /// A read must be later than this: the largest `entry.time` seen, plus [`STALE_READS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_after: Option<FacebookTime>,
    /// Stamp of the last good read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_read_stamp: Option<FacebookTime>,
    /// When the notice behind `need` should be verified. The first notice sets it, so that a Page
    /// that changes all the time is still read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_at: Option<HostTime>,
    /// A read must begin at this or later: somebody asked for one (an operator, a login), or a notice
    /// came without a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_after: Option<HostTime>,
    /// When the first wish that is still open wants its read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_due_at: Option<HostTime>,
    /// When the last good read was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success_began: Option<HostTime>,
    /// When the last attempt was begun, good or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt_began: Option<HostTime>,
    /// Attempts failed since the last good read.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// No attempt before this: back-off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<HostTime>,
    /// The daily slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily_slot: Option<HostTime>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if hands out references"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Polling {
    /// A webhook said that something changed: `sent` on Facebook's clock if it said when, `received`
    /// on ours. The verification follows `verify_after` the first such notice.
    pub fn record_notification(
        &mut self,
        sent: Option<FacebookTime>,
        received: HostTime,
        verify_after: Duration,
    ) {
        let verify_at = received.plus(verify_after);
        let Some(sent) = sent else {
            self.request_read(verify_at);
            return;
        };
        if !self.open_notification().is_some() {
            self.verify_at = Some(verify_at);
        }
        self.read_after = self.read_after.max(Some(sent.plus(READ_STALENESS)));
        if !self.open_notification().is_some() {
            self.verify_at = None;
        }
    }

    /// A read is wanted at `at` (now, for an operator).
    pub fn request_read(&mut self, at: HostTime) {
        if !self.open_request().is_some() {
            self.request_due_at = Some(at);
        }
        self.requested_after = self.requested_after.max(Some(at));
        self.request_due_at = self.request_due_at.min(Some(at));
    }

    /// An attempt begins.
    pub fn begin_attempt(&mut self, now: HostTime) {
        self.last_attempt_began = self.last_attempt_began.max(Some(now));
    }

    /// The attempt begun at `started` read the Page at `stamp` (Facebook's clock).
    pub fn complete_read(&mut self, started: HostTime, stamp: FacebookTime, next_slot: HostTime) {
        self.last_read_stamp = self.last_read_stamp.max(Some(stamp));
        self.last_success_began = self.last_success_began.max(Some(started));
        self.failures = 0;
        self.not_before = None;
        self.daily_slot = Some(next_slot);
        if !self.open_notification().is_some() {
            self.verify_at = None;
        }
        if !self.open_request().is_some() {
            self.request_due_at = None;
        }
    }

    /// The attempt begun at `started` did what was wanted, of something that has no daily slot.
    pub fn complete_attempt(&mut self, started: HostTime) {
        self.last_success_began = self.last_success_began.max(Some(started));
        self.failures = 0;
        self.not_before = None;
        if !self.open_request().is_some() {
            self.request_due_at = None;
        }
    }

    /// No attempt was made, and none is to be made before `resume`.
    pub fn defer_until(&mut self, resume: HostTime) {
        self.not_before = self.not_before.max(Some(resume));
    }

    /// The attempt failed; nothing before `resume`.
    pub fn fail_attempt(&mut self, resume: HostTime) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(resume);
    }

    /// Returns the instant on Facebook's clock after which a read must happen to answer every
    /// notification so far, or `None` if the last read answered all of them.
    pub fn open_notification(&self) -> Option<FacebookTime> {
        self.read_after
            .filter(|after| self.last_read_stamp.is_none_or(|read| read <= *after))
    }

    /// Returns the instant on this host's clock at or after which a read must begin to answer every
    /// request so far, or `None` if none is open.
    pub fn open_request(&self) -> Option<HostTime> {
        self.requested_after
            .filter(|after| self.last_success_began.is_none_or(|began| began < *after))
    }

    /// Whether a read is wanted before the daily one.
    pub fn is_read_requested(&self) -> bool {
        self.open_notification().is_some() || self.open_request().is_some()
    }

    /// Returns whether a read is due now, by this host's clock or by that of the scheduler that claimed
    /// it at `claimed`. With this host's clock alone, a scheduler whose clock is ahead would claim the
    /// subject again at once.
    pub fn is_due(&self, now: HostTime, claimed: HostTime) -> bool {
        self.due().is_some_and(|(_, at)| at <= now.max(claimed))
    }

    /// When the Page is to be read next and in which queue; `None` if never.
    ///
    /// | state | due |
    /// |---|---|
    /// | a notice or a wish is open | the earlier of the two, but [`BETWEEN_ATTEMPTS`] after the last attempt and not in the back-off; queue `polls_now` |
    /// | otherwise | the daily slot, not in the back-off; queue `polls_daily` |
    /// | no slot either | never |
    pub fn due(&self) -> Option<(QueueName, HostTime)> {
        let notice = self
            .open_notification()
            .map(|_| self.verify_at.unwrap_or_default());
        let ask = self
            .open_request()
            .map(|_| self.request_due_at.unwrap_or_default());
        let not_before = self.not_before.unwrap_or_default();
        match notice.into_iter().chain(ask).min() {
            Some(at) => {
                let spaced = self
                    .last_attempt_began
                    .map_or(HostTime(0), |started| started.plus(MIN_ATTEMPT_INTERVAL));
                Some((QueueName::PollsNow, at.max(spaced).max(not_before)))
            }
            None => self
                .daily_slot
                .map(|slot| (QueueName::PollsDaily, slot.max(not_before))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(10);

    #[test]
    fn a_notice_is_verified_ten_seconds_later_and_answered_by_a_later_read() {
        let mut polling = Polling {
            daily_slot: Some(HostTime(900_000)),
            ..Polling::default()
        };
        polling.record_notification(Some(FacebookTime(100_000)), HostTime(100_400), AFTER);
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsNow, HostTime(110_400)))
        );
        polling.begin_attempt(HostTime(110_400));
        polling.complete_read(HostTime(110_400), FacebookTime(104_000), HostTime(900_000));
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsNow, HostTime(170_400))),
            "read too early: again a minute later"
        );
        polling.complete_read(HostTime(170_400), FacebookTime(170_000), HostTime(900_000));
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsDaily, HostTime(900_000)))
        );
    }

    #[test]
    fn a_stream_of_notices_does_not_push_the_read_away() {
        let mut polling = Polling::default();
        for second in 100..200 {
            polling.record_notification(
                Some(FacebookTime(second * 1000)),
                HostTime(second * 1000),
                AFTER,
            );
        }
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsNow, HostTime(110_000)))
        );
    }

    #[test]
    fn a_failed_attempt_leaves_the_wish_open() {
        let mut polling = Polling::default();
        polling.request_read(HostTime(1000));
        polling.begin_attempt(HostTime(2000));
        polling.fail_attempt(HostTime(500_000));
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsNow, HostTime(500_000)))
        );
    }

    #[test]
    fn a_notice_older_than_the_last_read_asks_for_nothing() {
        let mut polling = Polling::default();
        polling.complete_read(HostTime(50_000), FacebookTime(60_000), HostTime(900_000));
        polling.record_notification(Some(FacebookTime(10_000)), HostTime(61_000), AFTER);
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsDaily, HostTime(900_000)))
        );
    }
}
