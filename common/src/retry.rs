//! Retry delays: one named policy for each kind of failure, and one formula for all of them.
//!
//! Invariant: the formula is a pure function of the policy and of the number of failures; only the
//! jitter is random. Jitter keeps many processes that failed together from retrying together.

use std::time::Duration;

use crate::graph::error::{ErrorKind, GraphError};

/// The delays after failures: `first`, doubled for each failure in a row, at most `longest`.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The delay after the first failure, without jitter.
    pub first: Duration,
    /// The longest delay, without jitter.
    pub longest: Duration,
    /// The jitter: a random factor between these two.
    pub jitter: (f64, f64),
}

/// The policy for connecting again to a broker, a store or a queue: 0.2 s, 0.4 s, up to 4 s.
pub const RECONNECT: RetryPolicy = RetryPolicy {
    first: Duration::from_millis(200),
    longest: Duration::from_secs(4),
    jitter: (0.5, 1.0),
};

/// The policy for the token exchange of a login: 3 s, 6 s, up to 5 min.
pub const LOGIN: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(3),
    longest: Duration::from_secs(300),
    jitter: (0.9, 1.1),
};

/// The policy for setting the app subscription: 5 s, 10 s, up to 1 h. Facebook verifies the
/// callback during the call, so at the first start the call fails until ingress is up.
pub const APP_SUBSCRIPTION: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(5),
    longest: Duration::from_secs(3600),
    jitter: (0.9, 1.1),
};

/// The policy for posting a change to a destination that did not accept it: 1 s, 2 s, up to 5 min.
pub const DESTINATION: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(300),
    jitter: (0.8, 1.2),
};

/// The policy for sending a delivery again while its message is held, and for trying a program that is down:
/// 1 s, 2 s, up to 1 min.
pub const FORWARD: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(60),
    jitter: (0.8, 1.2),
};

/// The policy for sending a delivery again that has a record: 5 s, 10 s, up to 10 min.
pub const FORWARD_RECORD: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(5),
    longest: Duration::from_secs(600),
    jitter: (0.8, 1.2),
};

/// The policy for calls of Graph after a transient failure: 1 min, 2 min, up to 6 h.
pub const GRAPH_CALL: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(60),
    longest: Duration::from_secs(6 * 3600),
    jitter: (0.9, 1.1),
};

/// The policy for calls of Graph after a refusal because of a rate limit: 5 min, 10 min, up to 1 h.
/// It has no jitter, because each caller adds jitter.
pub const RATE_LIMIT: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(5 * 60),
    longest: Duration::from_secs(60 * 60),
    jitter: (1.0, 1.0),
};

/// The delay after a failure that only a person can fix, such as an invalid token: one call a day.
pub const ONE_DAY: Duration = Duration::from_secs(24 * 3600);

impl RetryPolicy {
    /// Returns the delay after a failed attempt. `failures` is the number of attempts in a row that
    /// failed before this one, so 0 gives the first delay.
    pub fn delay(&self, failures: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.min(16));
        let (least, most) = self.jitter;
        let factor = least + fastrand::f64() * (most - least);
        doubled.min(self.longest).mul_f64(factor)
    }
}

/// Returns the delay after a call that failed with `error`: [`ONE_DAY`] if a person must act first,
/// otherwise a delay of [`GRAPH_CALL`]. `failures` is the number of calls in a row that failed
/// before this one.
pub fn delay_after(error: &GraphError, failures: u32) -> Duration {
    match &error.kind {
        ErrorKind::Token { .. }
        | ErrorKind::Permission(_)
        | ErrorKind::NotFound
        | ErrorKind::Merged(_)
        | ErrorKind::Configuration(_) => ONE_DAY,
        _ => GRAPH_CALL.delay(failures),
    }
}

/// Counts failures in a row and waits between attempts by the policy [`RECONNECT`].
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts a failure and waits before the next attempt.
    pub async fn wait(&mut self) {
        let delay = RECONNECT.delay(self.failures);
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(delay).await;
    }

    /// Records a success, after which the next delay is the first of the policy again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_delays(policy: RetryPolicy, seconds: &[f64]) {
        for (failures, expected) in (0..).zip(seconds) {
            let delay = policy.delay(failures).as_secs_f64();
            let (least, most) = policy.jitter;
            let range = expected * least - 1e-6..=expected * most + 1e-6;
            assert!(
                range.contains(&delay),
                "{delay} s after {failures} failures"
            );
        }
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        assert_delays(RECONNECT, &[0.2, 0.4, 0.8, 1.6, 3.2, 4.0, 4.0]);
        assert_delays(LOGIN, &[3.0, 6.0, 12.0, 24.0, 48.0, 96.0, 192.0, 300.0]);
        assert_delays(APP_SUBSCRIPTION, &[5.0, 10.0, 20.0]);
        assert_delays(GRAPH_CALL, &[60.0, 120.0, 240.0, 480.0]);
        assert_delays(RATE_LIMIT, &[300.0, 600.0, 1200.0, 2400.0, 3600.0, 3600.0]);
    }

    #[test]
    fn no_number_of_failures_overflows() {
        for failures in [16, 17, 31, 32, u32::MAX] {
            assert_delays(GRAPH_CALL, &[60.0]);
            assert!(GRAPH_CALL.delay(failures) <= GRAPH_CALL.longest.mul_f64(1.1));
        }
    }
}
