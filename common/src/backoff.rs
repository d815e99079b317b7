//! How long to wait before trying again: doubling from 0.2 s to 4 s, with jitter, so that many
//! processes that lost the same server do not come back in step.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(4);

/// Counts failed attempts in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause before the next attempt: between half and all of 0.2, 0.4, 0.8 ... 4 s.
    pub fn next_pause(&mut self) -> Duration {
        let whole = FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Waits [`Self::next_pause`].
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_pause()).await;
    }

    /// An attempt succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_four_seconds() {
        let mut backoff = Backoff::default();
        for whole in [200, 400, 800, 1600, 3200, 4000, 4000] {
            let pause = backoff.next_pause().as_millis();
            assert!(pause >= whole / 2 && pause <= whole, "{pause} of {whole}");
        }
    }
}
