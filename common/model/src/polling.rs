//! Computes when a subject is due for its next poll, as a pure function of its own poll state.
//!
//! Invariant: a notification or a request stays open until a successful read is late enough to
//! answer it. There is no "done" flag that could be lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::queue_name::QueueName;
use crate::time::{FacebookTime, HostTime};

/// The maximum age of a value that Graph returns. A read answers a notification only if the stamp
/// of the read is later than the notification by more than this.
pub const READ_STALENESS: Duration = Duration::from_secs(5);
/// The minimum time from an attempt to the next one that a notification or a request causes. A
/// connection poll that an operator requests ignores it.
pub const MIN_ATTEMPT_INTERVAL: Duration = Duration::from_secs(60);

/// How much earlier than it is requested the exchange of the token of a login and its connection
/// poll are due. They come before the Page subscriptions of other logins in the same queue.
pub const LOGIN_PRECEDENCE: Duration = Duration::from_secs(3600);
/// No request is made for a later time than this: the longest delay of a verification read, and an
/// hour.
pub const MAX_REQUEST_AHEAD: Duration = Duration::from_secs(25 * 3600);
/// No due time lies further ahead than this. A later one was written by a host whose clock was
/// wrong.
pub const MAX_DUE_AHEAD: Duration = Duration::from_secs(48 * 3600);

/// The poll state of one subject, from which [`Polling::due`] derives its due time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Polling {
    /// The latest `entry.time` of any notification plus [`READ_STALENESS`], on Facebook's clock. A
    /// read with a later stamp answers every notification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_after: Option<FacebookTime>,
    /// The latest stamp of a successful read, on Facebook's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_read_stamp: Option<FacebookTime>,
    /// When the verification read of the open notifications is due, on this host's clock. Only the
    /// first open notification sets it, so that a Page that changes all the time is still read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_at: Option<HostTime>,
    /// The latest time for which a read was requested, on this host's clock. A successful attempt
    /// that begins then or later answers every request. Requests come from operators, logins, reads
    /// that need a second read, and notifications without a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_from: Option<HostTime>,
    /// When the earliest open request is due, on this host's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_due_at: Option<HostTime>,
    /// Whether the open request comes from a login, so that its poll goes to the queue of logins.
    #[serde(skip_serializing_if = "is_false")]
    pub requested_by_login: bool,
    /// When the last successful attempt began, on this host's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success_began: Option<HostTime>,
    /// When the last attempt began, successful or not, on this host's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt_began: Option<HostTime>,
    /// How many attempts have failed since the last successful one.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// The end of the retry delay, on this host's clock. No attempt is due before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<HostTime>,
    /// When the next daily poll is due, on this host's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily_slot: Option<HostTime>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if passes a reference"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Polling {
    /// Records a notification that was sent at `sent_at` and received at `received_at`. Its
    /// verification read is due `verify_after` later, unless an earlier open notification is due
    /// sooner. Without `sent_at`, a read is requested for that time instead.
    pub fn record_notification(
        &mut self,
        sent_at: Option<FacebookTime>,
        received_at: HostTime,
        verify_after: Duration,
    ) {
        let verify_at = received_at.plus(verify_after);
        let Some(sent_at) = sent_at else {
            self.request_read(verify_at);
            return;
        };
        if self.read_needed_after().is_none() {
            self.verify_at = Some(verify_at);
        }
        self.read_after = self.read_after.max(Some(sent_at.plus(READ_STALENESS)));
        if self.read_needed_after().is_none() {
            self.verify_at = None;
        }
    }

    /// Requests a read that begins at `at` or later and is due at `at`.
    pub fn request_read(&mut self, at: HostTime) {
        if self.open_request_from().is_none() {
            self.request_due_at = Some(at);
        }
        self.requested_from = self.requested_from.max(Some(at));
        self.request_due_at = self.request_due_at.min(Some(at));
    }

    /// Requests a read now, whatever the stored times are. The retry delay of an earlier failure
    /// does not postpone it.
    pub fn request_read_now(&mut self, now: HostTime) {
        // Only a wrong clock can have written an attempt that began later, and it must not postpone
        // the read.
        self.last_attempt_began = self.last_attempt_began.filter(|began| *began <= now);
        self.lower_impossible_times(now);
        // An attempt that began in this millisecond does not answer the request.
        let earlier = now.minus(Duration::from_millis(1));
        self.last_success_began = self.last_success_began.min(Some(earlier));
        // A request further ahead than any right one is answered by this read.
        let latest = now.plus(MAX_REQUEST_AHEAD);
        let later = self.requested_from.filter(|from| *from <= latest);
        self.requested_from = later.max(Some(now));
        self.request_due_at = Some(now);
        self.not_before = None;
    }

    /// Requests a read for a person who has just logged in and waits for it. Neither the minimum
    /// time between attempts nor earlier failures postpone it, and it is due [`LOGIN_PRECEDENCE`]
    /// earlier.
    pub fn request_login_read(&mut self, now: HostTime) {
        self.request_read_now(now);
        self.request_due_at = Some(now.minus(LOGIN_PRECEDENCE));
        self.requested_by_login = true;
        (self.last_attempt_began, self.failures) = (None, 0);
    }

    /// Corrects the times that only a host whose clock was ahead can have written: an attempt that
    /// began after `now`, and a time that is due more than [`MAX_DUE_AHEAD`] later. Without this,
    /// such a time would postpone every read until it has come.
    pub fn lower_impossible_times(&mut self, now: HostTime) {
        if self.open_request_from().is_none() {
            // An answered request must not open again when the attempt that answered it is lowered.
            self.forget_request();
        }
        for began in [&mut self.last_success_began, &mut self.last_attempt_began] {
            *began = began.map(|began| began.min(now));
        }
        let latest = now.plus(MAX_DUE_AHEAD);
        for due in [
            &mut self.verify_at,
            &mut self.requested_from,
            &mut self.request_due_at,
            &mut self.not_before,
            &mut self.daily_slot,
        ] {
            *due = due.map(|due| if due > latest { now } else { due });
        }
    }

    /// Makes the verification read of the open notifications due at `now` if it is due more than
    /// `verify_after` and a minute later, which only a host whose clock was ahead can have written.
    pub fn lower_verification(&mut self, now: HostTime, verify_after: Duration) {
        let latest = now.plus(verify_after).plus(MIN_ATTEMPT_INTERVAL);
        self.verify_at = self.verify_at.map(|at| if at > latest { now } else { at });
    }

    /// Records that an attempt begins at `now`.
    pub fn begin_attempt(&mut self, now: HostTime) {
        self.last_attempt_began = self.last_attempt_began.max(Some(now));
    }

    /// Records that the attempt that began at `began_at` read the Page. `stamp` is the stamp of the
    /// read, and `next_slot` is when the next daily poll is due.
    pub fn complete_read(&mut self, began_at: HostTime, stamp: FacebookTime, next_slot: HostTime) {
        self.last_read_stamp = self.last_read_stamp.max(Some(stamp));
        self.last_success_began = self.last_success_began.max(Some(began_at));
        self.failures = 0;
        self.not_before = None;
        self.daily_slot = Some(next_slot);
        if self.read_needed_after().is_none() {
            self.verify_at = None;
        }
        self.forget_answered_request();
    }

    /// Records that the attempt that began at `began_at` succeeded, for a subject that has no
    /// stamps of reads. The daily slot does not change.
    pub fn complete_attempt(&mut self, began_at: HostTime) {
        self.last_success_began = self.last_success_began.max(Some(began_at));
        self.failures = 0;
        self.not_before = None;
        self.forget_answered_request();
    }

    /// Removes the request if it is answered. If a later one is open, it is due at its own time.
    fn forget_answered_request(&mut self) {
        match self.open_request_from() {
            None => self.forget_request(),
            Some(from) => self.request_due_at = Some(from),
        }
    }

    fn forget_request(&mut self) {
        (self.requested_from, self.request_due_at) = (None, None);
        self.requested_by_login = false;
    }

    /// Records that no attempt was made and that the next one is not due before `until`.
    pub fn defer_until(&mut self, until: HostTime) {
        self.not_before = self.not_before.max(Some(until));
    }

    /// Records that an attempt failed. The next one is not due before `retry_at`.
    pub fn fail_attempt(&mut self, retry_at: HostTime) {
        self.failures = self.failures.saturating_add(1);
        // A login whose reads fail repeatedly must not hold up the next one.
        self.requested_by_login &= self.failures < 2;
        self.not_before = Some(retry_at);
    }

    /// Returns the instant on Facebook's clock after which a read must happen to answer all open
    /// notifications, or `None` if none is open.
    pub fn read_needed_after(&self) -> Option<FacebookTime> {
        self.read_after
            .filter(|after| self.last_read_stamp.is_none_or(|read| read <= *after))
    }

    /// Returns the instant on this host's clock at or after which a read must begin to answer all
    /// open requests, or `None` if none is open.
    pub fn open_request_from(&self) -> Option<HostTime> {
        self.requested_from
            .filter(|after| self.last_success_began.is_none_or(|began| began < *after))
    }

    /// Returns whether a notification or a request is open.
    pub fn has_open_notification_or_request(&self) -> bool {
        self.read_needed_after().is_some() || self.open_request_from().is_some()
    }

    /// Returns whether a poll is due at `now` or at `claimed_due_at`, the due time of its claim.
    ///
    /// If the scheduler's clock is ahead of this host's clock, a claimed poll may not be due at
    /// `now`. A worker that skipped it would leave it due, and it would be claimed again at once.
    pub fn is_due(&self, now: HostTime, claimed_due_at: HostTime) -> bool {
        self.due()
            .is_some_and(|(_, at)| at <= now.max(claimed_due_at))
    }

    /// Returns when the next poll is due, on this host's clock, and in which queue. Returns `None`
    /// if no poll is due at any time.
    ///
    /// - While a notification or a request is open, the queue is `polls_now`, or `logins` if a login
    ///   requested the read. The poll is due at
    ///   the earlier of their due times, but at least [`MIN_ATTEMPT_INTERVAL`] after the last
    ///   attempt.
    /// - Otherwise the queue is `polls_daily`, and the poll is due at the daily slot.
    ///
    /// In both cases the poll is not due before the end of the retry delay.
    pub fn due(&self) -> Option<(QueueName, HostTime)> {
        let verification_due = self
            .read_needed_after()
            .map(|_| self.verify_at.unwrap_or_default());
        let request_due = self
            .open_request_from()
            .map(|_| self.request_due_at.unwrap_or_default());
        let not_before = self.not_before.unwrap_or_default();
        match verification_due.into_iter().chain(request_due).min() {
            Some(at) => {
                let earliest = self
                    .last_attempt_began
                    .map_or(HostTime(0), |began| began.plus(MIN_ATTEMPT_INTERVAL));
                let queue_name = if request_due.is_some() && self.requested_by_login {
                    QueueName::Logins
                } else {
                    QueueName::PollsNow
                };
                Some((queue_name, at.max(earliest).max(not_before)))
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

    const VERIFY_AFTER: Duration = Duration::from_secs(10);

    #[test]
    fn a_notification_is_verified_after_ten_seconds_and_answered_by_a_later_read() {
        let mut polling = Polling {
            daily_slot: Some(HostTime(900_000)),
            ..Polling::default()
        };
        polling.record_notification(Some(FacebookTime(100_000)), HostTime(100_400), VERIFY_AFTER);
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsNow, HostTime(110_400)))
        );
        polling.begin_attempt(HostTime(110_400));
        polling.complete_read(HostTime(110_400), FacebookTime(104_000), HostTime(900_000));
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsNow, HostTime(170_400))),
            "the read was too early, so the next one is due a minute later"
        );
        polling.complete_read(HostTime(170_400), FacebookTime(170_000), HostTime(900_000));
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsDaily, HostTime(900_000)))
        );
    }

    #[test]
    fn a_stream_of_notifications_does_not_postpone_the_read() {
        let mut polling = Polling::default();
        for second in 100..200 {
            polling.record_notification(
                Some(FacebookTime(second * 1000)),
                HostTime(second * 1000),
                VERIFY_AFTER,
            );
        }
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsNow, HostTime(110_000)))
        );
    }

    #[test]
    fn a_failed_attempt_leaves_the_request_open() {
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
    fn a_read_for_a_login_is_in_the_queue_of_logins_until_it_succeeds() {
        let mut polling = Polling {
            last_attempt_began: Some(HostTime(990)),
            not_before: Some(HostTime(500_000)),
            failures: 3,
            ..Polling::default()
        };
        let now = HostTime(0).plus(LOGIN_PRECEDENCE * 2);
        let later = now.plus(Duration::from_secs(1));
        polling.request_login_read(now);
        let before_others = now.minus(LOGIN_PRECEDENCE);
        assert_eq!(polling.due(), Some((QueueName::Logins, before_others)));
        polling.fail_attempt(later);
        assert_eq!(polling.due(), Some((QueueName::Logins, later)));
        polling.complete_read(later, FacebookTime(2000), HostTime(900_000));
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsDaily, HostTime(900_000)))
        );
        polling.request_read(later.plus(Duration::from_secs(1)));
        assert_eq!(
            polling.due().map(|(queue_name, _)| queue_name),
            Some(QueueName::PollsNow)
        );
    }

    /// The state that a host whose clock is `ahead` of the right one leaves after a read at the
    /// right time 1000, with a notification and a request open.
    fn written_with_a_wrong_clock(ahead: Duration) -> Polling {
        let wrong = HostTime(1000).plus(ahead);
        let mut polling = Polling::default();
        polling.begin_attempt(wrong);
        polling.complete_read(
            wrong,
            FacebookTime(1000),
            wrong.plus(Duration::from_secs(24 * 3600)),
        );
        polling.record_notification(Some(FacebookTime(900_000)), wrong, VERIFY_AFTER);
        polling.request_read(wrong.plus(Duration::from_secs(1)));
        polling.fail_attempt(wrong.plus(Duration::from_secs(3600)));
        polling
    }

    #[test]
    fn a_time_that_a_wrong_clock_wrote_delays_neither_a_request_nor_a_later_notification() {
        for hours in [1, 72] {
            let written = written_with_a_wrong_clock(Duration::from_secs(hours * 3600));
            let now = HostTime(2_000_000);
            let mut requested = written.clone();
            requested.request_read_now(now);
            requested.last_attempt_began = None;
            assert_eq!(requested.due(), Some((QueueName::PollsNow, now)));
            requested.complete_read(now, FacebookTime(2_000_000), now.plus(VERIFY_AFTER));
            assert!(
                requested.due() > Some((QueueName::PollsNow, now)),
                "{hours} h"
            );
            let mut notified = Polling {
                not_before: None,
                ..written
            };
            notified.lower_impossible_times(now);
            notified.lower_verification(now, VERIFY_AFTER);
            notified.record_notification(Some(FacebookTime(2_000_000)), now, VERIFY_AFTER);
            let latest = now.plus(MIN_ATTEMPT_INTERVAL);
            assert!(
                notified.due() <= Some((QueueName::PollsNow, latest)),
                "{hours} h"
            );
        }
    }

    #[test]
    fn an_answered_request_stays_answered_when_its_times_are_lowered() {
        for hours in [1, 40, 72] {
            let now = HostTime(2_000_000);
            let wrong = now.plus(Duration::from_secs(hours * 3600));
            let mut polling = Polling::default();
            polling.request_read(wrong);
            polling.begin_attempt(wrong);
            let slot = wrong.plus(Duration::from_secs(3600));
            polling.complete_read(wrong, FacebookTime(1000), slot);
            polling.lower_impossible_times(now);
            assert!(!polling.has_open_notification_or_request(), "{hours} h");
        }
    }

    #[test]
    fn a_later_request_is_due_at_its_own_time_after_an_earlier_one_is_answered() {
        let mut polling = Polling::default();
        polling.request_read(HostTime(1000));
        polling.request_read(HostTime(500_000));
        assert_eq!(polling.due(), Some((QueueName::PollsNow, HostTime(1000))));
        polling.begin_attempt(HostTime(1000));
        polling.complete_read(HostTime(1000), FacebookTime(1000), HostTime(900_000));
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsNow, HostTime(500_000)))
        );
    }

    #[test]
    fn a_time_too_far_ahead_is_lowered_and_a_right_one_is_not() {
        let now = HostTime(2_000_000);
        let mut wrong = written_with_a_wrong_clock(MAX_DUE_AHEAD * 2);
        wrong.lower_impossible_times(now);
        assert!(
            wrong.is_due(now.plus(MIN_ATTEMPT_INTERVAL), now),
            "{wrong:?}"
        );
        let right = Polling {
            verify_at: Some(now.plus(VERIFY_AFTER)),
            requested_from: Some(now.plus(Duration::from_secs(3600))),
            request_due_at: Some(now.plus(Duration::from_secs(3600))),
            last_success_began: Some(now),
            last_attempt_began: Some(now),
            not_before: Some(now.plus(Duration::from_secs(24 * 3600))),
            daily_slot: Some(now.plus(Duration::from_secs(25 * 3600))),
            ..Polling::default()
        };
        let mut corrected = right.clone();
        corrected.lower_impossible_times(now);
        assert_eq!(corrected, right);
    }

    #[test]
    fn a_notification_older_than_the_last_read_needs_no_verification_read() {
        let mut polling = Polling::default();
        polling.complete_read(HostTime(50_000), FacebookTime(60_000), HostTime(900_000));
        polling.record_notification(Some(FacebookTime(10_000)), HostTime(61_000), VERIFY_AFTER);
        assert_eq!(
            polling.due(),
            Some((QueueName::PollsDaily, HostTime(900_000)))
        );
    }
}
