//! Limits how often a repeated condition is logged.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two log lines about the same condition.
const INTERVAL: Duration = Duration::from_secs(60);

/// The time of the last log line about one condition, which several tasks may meet at once.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Option<Instant>>);

impl LogLimit {
    /// Returns whether the condition is to be logged now: the first time, and then at most once a
    /// minute.
    pub fn allows(&self) -> bool {
        self.allows_at(Instant::now())
    }

    fn allows_at(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.duration_since(last) >= INTERVAL);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_logged_once_a_minute() {
        let limit = LogLimit::default();
        let began = Instant::now();
        let attempts = (0..1000).map(|n| began + Duration::from_millis(200) * n);
        assert_eq!(attempts.filter(|at| limit.allows_at(*at)).count(), 4);
    }
}
