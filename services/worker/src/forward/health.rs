//! Whether the program accepts deliveries.
//!
//! Invariant: the program counts as down only if several deliveries in a row were not accepted, so that one
//! delivery that it always refuses holds no other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::posting::PostError;
use common::records::forwarding::Progress;
use tokio::sync::watch;

/// How many deliveries in a row get no answer before the program counts as down.
const MAX_NOT_ANSWERED: u32 = 3;
/// How many deliveries in a row are refused before the program counts as down.
const MAX_REFUSED: u32 = 8;
/// After how many refused attempts of a program that is down other deliveries are tried.
const MAX_REFUSED_PROBES: u32 = 5;

/// Which attempt of a delivery it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first one.
    First,
    /// A later one.
    Later,
    /// One that tries a program that is down.
    Probe,
}

#[derive(Debug, Default)]
struct State {
    /// How many deliveries failed for the first time since the program accepted one.
    failed: u32,
    /// How many of them got no answer.
    not_answered: u32,
    /// How many attempts failed since the program is down.
    probes: u32,
    progress: Progress,
}

/// Whether the program accepts deliveries.
#[derive(Debug)]
pub(super) struct Health {
    state: Mutex<State>,
    is_down: watch::Sender<bool>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            is_down: watch::Sender::new(false),
        }
    }
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the program accepted a delivery.
    pub(super) fn accepted(&self) {
        let mut state = self.lock();
        let progress = std::mem::take(&mut state.progress);
        *state = State::default();
        state.progress = Progress {
            accepted: progress.accepted + 1,
            too_old: progress.too_old,
            ..Progress::default()
        };
        self.set_down(&mut state, false);
    }

    /// Records a failed attempt.
    pub(super) fn failed(&self, error: &PostError, attempt: Kind) {
        let is_answer = matches!(error, PostError::Status(_));
        self.failed_because(error.to_string(), is_answer, attempt);
    }

    /// Records a failed attempt with its reason. `is_answer` is whether the program answered.
    pub(super) fn failed_because(&self, reason: String, is_answer: bool, attempt: Kind) {
        let mut state = self.lock();
        state.progress.last_failure = Some(reason);
        if attempt == Kind::First {
            state.failed += 1;
            state.not_answered += u32::from(!is_answer);
        }
        if state.progress.is_down {
            // The messages that are held make many attempts at a time, which do not count.
            state.probes += u32::from(attempt == Kind::Probe);
            if is_answer && state.probes >= MAX_REFUSED_PROBES {
                // It answers, so it may accept others than those that it refused.
                (state.failed, state.not_answered) = (0, 0);
                self.set_down(&mut state, false);
            }
        } else if state.not_answered >= MAX_NOT_ANSWERED || state.failed >= MAX_REFUSED {
            self.set_down(&mut state, true);
        }
    }

    /// Records that a delivery became a dead letter because it was too old.
    pub(super) fn was_too_old(&self) {
        self.lock().progress.too_old += 1;
    }

    /// Lets deliveries be received again, because there is none with which the program could be tried.
    pub(super) fn try_others(&self) {
        let mut state = self.lock();
        (state.failed, state.not_answered) = (0, 0);
        self.set_down(&mut state, false);
    }

    /// Stops the deliveries, because no record can be stored for those that fail.
    pub(super) fn stop(&self) {
        self.set_down(&mut self.lock(), true);
    }

    fn set_down(&self, state: &mut State, is_down: bool) {
        state.progress.is_down = is_down;
        if self.is_down.send_replace(is_down) == is_down {
            return;
        }
        state.probes = 0;
        if is_down {
            tracing::warn!(
                reason = state.progress.last_failure,
                "deliveries are not accepted at PAGESYNC_FORWARD_URL; they wait, and are sent again with growing pauses"
            );
        } else {
            tracing::info!("deliveries are sent to PAGESYNC_FORWARD_URL again");
        }
    }

    /// Returns whether the program is down.
    pub(super) fn is_down(&self) -> bool {
        *self.is_down.borrow()
    }

    /// Returns whether a delivery was not accepted since the program last accepted one.
    pub(super) fn has_failures(&self) -> bool {
        self.lock().failed > 0
    }

    /// Returns how many attempts failed since the program is down.
    pub(super) fn probes(&self) -> u32 {
        self.lock().probes
    }

    /// Resolves when the program is down, or is not.
    pub(super) async fn wait_until(&self, is_down: bool) {
        // This fails only if the sender is dropped, and `self` owns the sender.
        let _ = self
            .is_down
            .subscribe()
            .wait_for(|now| *now == is_down)
            .await;
    }

    /// Returns what was seen since the last call.
    pub(super) fn take_progress(&self) -> Progress {
        let mut state = self.lock();
        let taken = state.progress.clone();
        (state.progress.accepted, state.progress.too_old) = (0, 0);
        taken
    }

    /// Adds what could not be stored.
    pub(super) fn give_back(&self, progress: &Progress) {
        let mut state = self.lock();
        state.progress.accepted += progress.accepted;
        state.progress.too_old += progress.too_old;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::StatusCode;

    const NOT_ANSWERED: PostError = PostError::NotAnswered("a test");
    const REFUSED: PostError = PostError::Status(StatusCode::INTERNAL_SERVER_ERROR);

    #[test]
    fn one_delivery_that_is_always_refused_does_not_take_the_program_down() {
        let health = Health::default();
        health.failed(&REFUSED, Kind::First);
        for _ in 0..100 {
            health.failed(&REFUSED, Kind::Later);
        }
        assert!(!health.is_down());
        health.failed(&NOT_ANSWERED, Kind::First);
        health.failed(&NOT_ANSWERED, Kind::First);
        assert!(!health.is_down());
        health.failed(&NOT_ANSWERED, Kind::First);
        assert!(health.is_down());
        assert!(health.take_progress().is_down);
        health.accepted();
        assert!(!health.is_down());
        let progress = health.take_progress();
        assert_eq!((progress.accepted, progress.last_failure), (1, None));
    }

    #[test]
    fn a_program_that_answers_gets_other_deliveries_after_some_refusals() {
        let health = Health::default();
        for _ in 0..MAX_REFUSED {
            health.failed(&REFUSED, Kind::First);
        }
        assert!(health.is_down());
        for probe in 1..=MAX_REFUSED_PROBES {
            // The deliveries of the messages that are held fail meanwhile.
            health.failed(&REFUSED, Kind::First);
            health.failed(&REFUSED, Kind::Later);
            assert!(health.is_down(), "before probe {probe}");
            health.failed(&REFUSED, Kind::Probe);
        }
        assert!(!health.is_down());
    }
}
