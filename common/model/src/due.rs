//! When a Page is due for a read: one pure function of the Page's own numbers.
//!
//! Invariant: what makes a read wanted is cleared by one thing only, a read that happened late
//! enough to answer it. Nothing is ever ticked off, so nothing can be lost by ticking off.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lane::Lane;
use crate::time::Millis;

/// A notice is answered by a read at least this much later than the notice was sent: Graph may
/// serve a value that is a few seconds old.
pub const STALE_READS: Duration = Duration::from_secs(5);
/// Two attempts to read the same Page are at least this far apart.
pub const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(60);

/// The numbers behind [`Polling::due`]. `need` and `read` are on Facebook's clock, the rest on ours.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Polling {
    /// A read must be later than this: the largest `entry.time` seen, plus [`STALE_READS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub need: Option<Millis>,
    /// Stamp of the last good read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<Millis>,
    /// When the notice behind `need` should be verified. The first notice sets it, so that a Page
    /// that changes all the time is still read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_at: Option<Millis>,
    /// A read must begin at this or later: somebody asked for one (an operator, a login), or a notice
    /// came without a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Millis>,
    /// When the first wish that is still open wants its read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ask_at: Option<Millis>,
    /// When the last good read was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<Millis>,
    /// When the last attempt was begun, good or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Millis>,
    /// Attempts failed since the last good read.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// No attempt before this: back-off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Millis>,
    /// The daily slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<Millis>,
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
    pub fn notice(&mut self, sent: Option<Millis>, received: Millis, verify_after: Duration) {
        let verify_at = received.plus(verify_after);
        let Some(sent) = sent else {
            self.ask(verify_at);
            return;
        };
        if !self.notice_is_open() {
            self.verify_at = Some(verify_at);
        }
        self.need = self.need.max(Some(sent.plus(STALE_READS)));
        if !self.notice_is_open() {
            self.verify_at = None;
        }
    }

    /// A read is wanted at `at` (now, for an operator).
    pub fn ask(&mut self, at: Millis) {
        if !self.ask_is_open() {
            self.ask_at = Some(at);
        }
        self.asked = self.asked.max(Some(at));
        self.ask_at = self.ask_at.min(Some(at));
    }

    /// An attempt begins.
    pub fn start(&mut self, now: Millis) {
        self.started = self.started.max(Some(now));
    }

    /// The attempt begun at `started` read the Page at `stamp` (Facebook's clock).
    pub fn succeed(&mut self, started: Millis, stamp: Millis, next_slot: Millis) {
        self.read = self.read.max(Some(stamp));
        self.answered = self.answered.max(Some(started));
        self.failures = 0;
        self.not_before = None;
        self.slot = Some(next_slot);
        if !self.notice_is_open() {
            self.verify_at = None;
        }
        if !self.ask_is_open() {
            self.ask_at = None;
        }
    }

    /// The attempt begun at `started` did what was wanted, of something that has no daily slot.
    pub fn done(&mut self, started: Millis) {
        self.answered = self.answered.max(Some(started));
        self.failures = 0;
        self.not_before = None;
        if !self.ask_is_open() {
            self.ask_at = None;
        }
    }

    /// No attempt was made, and none is to be made before `resume`.
    pub fn defer(&mut self, resume: Millis) {
        self.not_before = self.not_before.max(Some(resume));
    }

    /// The attempt failed; nothing before `resume`.
    pub fn fail(&mut self, resume: Millis) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(resume);
    }

    fn notice_is_open(&self) -> bool {
        self.need
            .is_some_and(|need| self.read.is_none_or(|read| read <= need))
    }

    fn ask_is_open(&self) -> bool {
        self.asked
            .is_some_and(|asked| self.answered.is_none_or(|answered| answered < asked))
    }

    /// Whether a read is wanted before the daily one.
    pub fn wanted(&self) -> bool {
        self.notice_is_open() || self.ask_is_open()
    }

    /// When the Page is to be read next and in which lane; `None` if never.
    ///
    /// | state | due |
    /// |---|---|
    /// | a notice or a wish is open | the earlier of the two, but [`BETWEEN_ATTEMPTS`] after the last attempt and not in the back-off; lane `polls_now` |
    /// | otherwise | the daily slot, not in the back-off; lane `polls_daily` |
    /// | no slot either | never |
    pub fn due(&self) -> Option<(Lane, Millis)> {
        let notice = self
            .notice_is_open()
            .then(|| self.verify_at.unwrap_or_default());
        let ask = self.ask_is_open().then(|| self.ask_at.unwrap_or_default());
        let not_before = self.not_before.unwrap_or_default();
        match notice.into_iter().chain(ask).min() {
            Some(at) => {
                let spaced = self
                    .started
                    .map_or(Millis(0), |started| started.plus(BETWEEN_ATTEMPTS));
                Some((Lane::PollsNow, at.max(spaced).max(not_before)))
            }
            None => self
                .slot
                .map(|slot| (Lane::PollsDaily, slot.max(not_before))),
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
            slot: Some(Millis(900_000)),
            ..Polling::default()
        };
        polling.notice(Some(Millis(100_000)), Millis(100_400), AFTER);
        assert_eq!(polling.due(), Some((Lane::PollsNow, Millis(110_400))));
        polling.start(Millis(110_400));
        polling.succeed(Millis(110_400), Millis(104_000), Millis(900_000));
        assert_eq!(
            polling.due(),
            Some((Lane::PollsNow, Millis(170_400))),
            "read too early: again a minute later"
        );
        polling.succeed(Millis(170_400), Millis(170_000), Millis(900_000));
        assert_eq!(polling.due(), Some((Lane::PollsDaily, Millis(900_000))));
    }

    #[test]
    fn a_stream_of_notices_does_not_push_the_read_away() {
        let mut polling = Polling::default();
        for second in 100..200 {
            polling.notice(Some(Millis(second * 1000)), Millis(second * 1000), AFTER);
        }
        assert_eq!(polling.due(), Some((Lane::PollsNow, Millis(110_000))));
    }

    #[test]
    fn a_failed_attempt_leaves_the_wish_open() {
        let mut polling = Polling::default();
        polling.ask(Millis(1000));
        polling.start(Millis(2000));
        polling.fail(Millis(500_000));
        assert_eq!(polling.due(), Some((Lane::PollsNow, Millis(500_000))));
    }

    #[test]
    fn a_notice_older_than_the_last_read_asks_for_nothing() {
        let mut polling = Polling::default();
        polling.succeed(Millis(50_000), Millis(60_000), Millis(900_000));
        polling.notice(Some(Millis(10_000)), Millis(61_000), AFTER);
        assert_eq!(polling.due(), Some((Lane::PollsDaily, Millis(900_000))));
    }
}
