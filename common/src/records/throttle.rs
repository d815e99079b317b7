//! Limits of Facebook's that are used up, shared by all workers and schedulers: calling on while
//! throttled makes it longer. Source: "Rate limiting" of the Graph API.

use std::time::Duration;

use model::id::{PageId, UserId};
use model::lane::Lane;
use model::time::Millis;
use serde::{Deserialize, Serialize};

use super::{get, put, write};
use crate::store::{Key, Kind, Outcome, Store, StoreError, Versioned};

/// The app's bucket.
pub const APP: &str = "app";
/// From here on daily polls wait.
pub const DEFER_AT: u64 = 90;
/// The shortest and the longest pause.
const SHORTEST: Duration = Duration::from_secs(5 * 60);
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// A bucket that was quiet for so long begins anew.
const MEMORY: Duration = Duration::from_secs(2 * 3600);

/// A bucket that was used up, or nearly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// Nothing at all before this, on our clock.
    pub closed_until: Millis,
    /// No daily poll before this.
    pub deferred_until: Millis,
    /// How often in a row it was closed.
    pub closings: u32,
    /// The worst percentage seen.
    pub percent: u64,
}

/// The record of a bucket: `app`, `user:<id>`, `page:<id>`.
pub fn key(bucket: &str) -> Key {
    Key::new(Kind::Throttle, bucket)
}

/// The state of a bucket; open if nothing is known.
pub async fn find(store: &dyn Store, bucket: &str) -> Result<Throttle, StoreError> {
    Ok(get(store, &key(bucket))
        .await?
        .map(|held| held.value)
        .unwrap_or_default())
}

/// Until when no call of this lane may be made that counts for any of these buckets; `None`: now.
pub async fn closed(
    store: &dyn Store,
    buckets: impl IntoIterator<Item = String>,
    lane: Lane,
    now: Millis,
) -> Result<Option<Millis>, StoreError> {
    let mut until = now;
    for bucket in buckets {
        let held = find(store, &bucket).await?;
        until = until.max(held.closed_until);
        if lane == Lane::PollsDaily {
            until = until.max(held.deferred_until);
        }
    }
    Ok((until > now).then_some(until))
}

/// The bucket of a person's calls.
pub fn user(id: &UserId) -> String {
    format!("user:{id}")
}

/// The bucket of a Page's calls.
pub fn page(id: &PageId) -> String {
    format!("page:{id}")
}

impl Throttle {
    /// What it is after Facebook refused: closed for `wait`, else for 5 minutes, doubled each time in
    /// a row up to an hour.
    /// Calls that were under way at the same time are one refusal.
    #[must_use]
    pub fn closed(self, now: Millis, wait: Option<Duration>) -> Self {
        if self.closed_until > now {
            let told = now.plus(wait.unwrap_or_default());
            return Self {
                closed_until: self.closed_until.max(told),
                ..self
            };
        }
        let doubled = SHORTEST
            .saturating_mul(1 << self.closings.min(8))
            .min(LONGEST);
        let until = now.plus(wait.unwrap_or_default().max(doubled));
        Self {
            closed_until: until.max(self.closed_until),
            closings: self.closings.saturating_add(1),
            ..self
        }
    }

    /// What it is after an answer said how much is used; `None`: nothing worth writing.
    pub fn noted(self, now: Millis, percent: u64, regain: Duration) -> Option<Self> {
        if percent >= 100 {
            let closed = self.closed_until > now;
            return (!closed).then(|| Self {
                percent,
                ..self.closed(now, Some(regain))
            });
        }
        (percent >= DEFER_AT && self.deferred_until <= now).then(|| Self {
            percent,
            deferred_until: now.plus(SHORTEST),
            ..self
        })
    }
}

/// Changes a bucket, on whatever it is by now. `None`: there is nothing to write.
pub async fn update(
    store: &dyn Store,
    bucket: &str,
    now: Millis,
    change: impl Fn(Throttle) -> Option<Throttle>,
) -> Result<Option<Throttle>, StoreError> {
    loop {
        let held: Option<Versioned<Throttle>> = get(store, &key(bucket)).await?;
        let (version, held) =
            held.map_or((0, Throttle::default()), |held| (held.version, held.value));
        let Some(next) = change(held) else {
            return Ok(None);
        };
        // It must outlive what it says.
        let until = next.closed_until.max(next.deferred_until);
        let put = put(
            key(bucket),
            &next,
            Some(version),
            Some(now.until(until) + MEMORY),
        );
        if write(store, vec![put]).await? == Outcome::Applied {
            return Ok(Some(next));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_000_000);

    #[test]
    fn pauses_double_up_to_an_hour_and_facebooks_word_counts_if_longer() {
        let mut throttle = Throttle::default();
        let mut now = NOW;
        for minutes in [5, 10, 20, 40, 60, 60] {
            throttle = throttle.closed(now, None);
            assert_eq!(now.until(throttle.closed_until).as_secs(), minutes * 60);
            let burst = throttle.clone().closed(now, None);
            assert_eq!(
                burst, throttle,
                "calls under way at the same time are one refusal"
            );
            now = throttle.closed_until;
        }
        let told = Throttle::default().closed(NOW, Some(Duration::from_secs(7200)));
        assert_eq!(NOW.until(told.closed_until).as_secs(), 7200);
    }

    #[test]
    fn usage_defers_at_ninety_and_closes_at_a_hundred() {
        let open = Throttle::default;
        assert_eq!(open().noted(NOW, 89, Duration::ZERO), None);
        let deferred = open().noted(NOW, 90, Duration::ZERO).unwrap();
        assert!(deferred.deferred_until > NOW && deferred.closed_until < NOW);
        let closed = open().noted(NOW, 120, Duration::ZERO).unwrap();
        assert!(closed.closed_until > NOW);
        assert_eq!(
            closed.noted(NOW, 130, Duration::ZERO),
            None,
            "closed already"
        );
    }
}
