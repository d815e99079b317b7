//! Limits of Facebook's that are used up, shared by all workers and schedulers: calling on while
//! throttled makes it longer. Source: "Rate limiting" of the Graph API.

use std::time::Duration;

use model::id::{PageId, UserId};
use model::queue_name::QueueName;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::{load_record, put_write, write_records};
use crate::retry::RATE_LIMIT;
use crate::store::{CommitOutcome, RecordKey, RecordKind, Store, StoreError, Versioned};

/// The app's bucket.
pub const APP_BUCKET: &str = "app";
/// From here on daily polls wait.
pub const DEFER_PERCENT: u64 = 90;
/// A bucket that was quiet for so long begins anew.
const QUIET_PERIOD: Duration = Duration::from_secs(2 * 3600);

/// A bucket that was used up, or nearly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Nothing at all before this, on our clock.
    pub blocked_until: HostTime,
    /// No daily poll before this.
    pub deferred_until: HostTime,
    /// How often in a row it was closed.
    pub consecutive_blocks: u32,
    /// The worst percentage seen.
    pub percent: u64,
}

/// The record of a bucket: `app`, `user:<id>`, `page:<id>`.
pub fn key(bucket: &str) -> RecordKey {
    RecordKey::new(RecordKind::RateLimit, bucket)
}

/// The state of a bucket; open if nothing is known.
pub async fn find(store: &dyn Store, bucket: &str) -> Result<RateLimit, StoreError> {
    Ok(load_record(store, &key(bucket))
        .await?
        .map(|stored| stored.value)
        .unwrap_or_default())
}

/// Until when no call of this queue may be made that counts for any of these buckets; `None`: now.
pub async fn blocked_until(
    store: &dyn Store,
    buckets: impl IntoIterator<Item = String>,
    queue_name: QueueName,
    now: HostTime,
) -> Result<Option<HostTime>, StoreError> {
    let mut until = now;
    for bucket in buckets {
        let stored = find(store, &bucket).await?;
        until = until.max(stored.blocked_until);
        if queue_name == QueueName::PollsDaily {
            until = until.max(stored.deferred_until);
        }
    }
    Ok((until > now).then_some(until))
}

/// The bucket of a person's calls.
pub fn user_bucket(id: &UserId) -> String {
    format!("user:{id}")
}

/// The bucket of a Page's calls.
pub fn page_bucket(id: &PageId) -> String {
    format!("page:{id}")
}

impl RateLimit {
    /// What it is after Facebook refused: closed for `wait`, else for 5 minutes, doubled each time in
    /// a row up to an hour.
    /// Calls that were under way at the same time are one refusal.
    #[must_use]
    pub fn after_refusal(self, now: HostTime, wait: Option<Duration>) -> Self {
        if self.blocked_until > now {
            let told = now.plus(wait.unwrap_or_default());
            return Self {
                blocked_until: self.blocked_until.max(told),
                ..self
            };
        }
        let doubled = RATE_LIMIT.delay(self.consecutive_blocks);
        let until = now.plus(wait.unwrap_or_default().max(doubled));
        Self {
            blocked_until: until.max(self.blocked_until),
            consecutive_blocks: self.consecutive_blocks.saturating_add(1),
            ..self
        }
    }

    /// What it is after an answer said how much is used; `None`: nothing worth writing.
    pub fn after_usage(self, now: HostTime, percent: u64, regain: Duration) -> Option<Self> {
        if percent >= 100 {
            let closed = self.blocked_until > now;
            return (!closed).then(|| Self {
                percent,
                ..self.after_refusal(now, Some(regain))
            });
        }
        (percent >= DEFER_PERCENT && self.deferred_until <= now).then(|| Self {
            percent,
            deferred_until: now.plus(RATE_LIMIT.first),
            ..self
        })
    }
}

/// Changes a bucket, on whatever it is by now. `None`: there is nothing to write.
pub async fn update(
    store: &dyn Store,
    bucket: &str,
    now: HostTime,
    change: impl Fn(RateLimit) -> Option<RateLimit>,
) -> Result<Option<RateLimit>, StoreError> {
    loop {
        let stored: Option<Versioned<RateLimit>> = load_record(store, &key(bucket)).await?;
        let (version, stored) = stored.map_or((0, RateLimit::default()), |stored| {
            (stored.version, stored.value)
        });
        let Some(next) = change(stored) else {
            return Ok(None);
        };
        // It must outlive what it says.
        let until = next.blocked_until.max(next.deferred_until);
        let put = put_write(
            key(bucket),
            &next,
            Some(version),
            Some(now.until(until) + QUIET_PERIOD),
        );
        if write_records(store, vec![put]).await? == CommitOutcome::Applied {
            return Ok(Some(next));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: HostTime = HostTime(1_000_000);

    #[test]
    fn pauses_double_up_to_an_hour_and_facebooks_word_counts_if_longer() {
        let mut throttle = RateLimit::default();
        let mut now = NOW;
        for minutes in [5, 10, 20, 40, 60, 60] {
            throttle = throttle.after_refusal(now, None);
            assert_eq!(now.until(throttle.blocked_until).as_secs(), minutes * 60);
            let burst = throttle.clone().after_refusal(now, None);
            assert_eq!(
                burst, throttle,
                "calls under way at the same time are one refusal"
            );
            now = throttle.blocked_until;
        }
        let told = RateLimit::default().after_refusal(NOW, Some(Duration::from_secs(7200)));
        assert_eq!(NOW.until(told.blocked_until).as_secs(), 7200);
    }

    #[test]
    fn usage_defers_at_ninety_and_closes_at_a_hundred() {
        let open = RateLimit::default;
        assert_eq!(open().after_usage(NOW, 89, Duration::ZERO), None);
        let deferred = open().after_usage(NOW, 90, Duration::ZERO).unwrap();
        assert!(deferred.deferred_until > NOW && deferred.blocked_until < NOW);
        let closed = open().after_usage(NOW, 120, Duration::ZERO).unwrap();
        assert!(closed.blocked_until > NOW);
        assert_eq!(
            closed.after_usage(NOW, 130, Duration::ZERO),
            None,
            "closed already"
        );
    }
}
