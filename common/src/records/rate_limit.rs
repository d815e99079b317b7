//! Facebook's rate limits that are exhausted or nearly exhausted, shared by all workers and
//! schedulers.
//!
//! A call that is made while a rate limit blocks calls extends the block. Source: "Rate limiting"
//! of the Graph API.

use std::time::Duration;

use model::id::{PageId, UserId};
use model::queue_name::QueueName;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::{load_decodable, put_write, write_records};
use crate::retry::RATE_LIMIT;
use crate::store::{CommitOutcome, RecordKey, RecordKind, Store, StoreError, Versioned};
use crate::store_clock::MAX_DIFFERENCE;

/// The bucket of calls that count for the app.
pub const APP_BUCKET: &str = "app";
/// The usage in percent at and above which daily polls are deferred.
pub const DEFER_DAILY_PERCENT: u64 = 80;
/// The usage in percent at and above which all polls are deferred except those of logins.
pub const DEFER_PERCENT: u64 = 90;
/// How long the state of a bucket is stored after it no longer blocks or defers calls.
const QUIET_PERIOD: Duration = Duration::from_secs(2 * 3600);

/// The state of one bucket: the rate limit of the app, a person or a Page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Until when no call may be made, on this host's clock.
    pub blocked_until: HostTime,
    /// Until when no daily poll may be made, on this host's clock.
    pub deferred_until: HostTime,
    /// Until when no poll may be made except those of logins, on this host's clock.
    #[serde(default)]
    pub reserved_until: HostTime,
    /// When the state was written, on this host's clock.
    #[serde(default)]
    pub written_at: HostTime,
    /// How many times in a row calls were blocked.
    pub consecutive_blocks: u32,
    /// The last recorded usage in percent, [`DEFER_DAILY_PERCENT`] or more.
    pub percent: u64,
}

/// Returns the key of a bucket's record. A bucket is `app`, `user:<id>` or `page:<id>`.
pub fn key(bucket: &str) -> RecordKey {
    RecordKey::new(RecordKind::RateLimit, bucket)
}

/// Returns the state of a bucket. An unknown bucket blocks nothing, and neither does a state that
/// this build cannot decode or that was written in the future: it would stop all polls, while Facebook
/// reports an exhausted rate limit again.
pub async fn find(store: &dyn Store, bucket: &str, now: HostTime) -> Result<RateLimit, StoreError> {
    let stored = load_decodable::<RateLimit>(store, &key(bucket)).await?;
    let stored = stored.and_then(|stored| stored.value);
    Ok(stored
        .filter(|limit| limit.is_plausible(now))
        .unwrap_or_default())
}

/// Returns until when polls of this queue may make no call that counts for any of these buckets, on
/// this host's clock, or `None` if they may call now.
pub async fn blocked_until(
    store: &dyn Store,
    buckets: impl IntoIterator<Item = String>,
    queue_name: QueueName,
    now: HostTime,
) -> Result<Option<HostTime>, StoreError> {
    let mut until = now;
    for bucket in buckets {
        let stored = find(store, &bucket, now).await?;
        until = until.max(stored.allowed_from(queue_name));
    }
    Ok((until > now).then_some(until))
}

/// Returns the bucket of calls that count for a person.
pub fn user_bucket(id: &UserId) -> String {
    format!("user:{id}")
}

/// Returns the bucket of calls that count for a Page.
pub fn page_bucket(id: &PageId) -> String {
    format!("page:{id}")
}

impl RateLimit {
    /// Returns whether the clock of the host that wrote the state was not ahead of `now` by more
    /// than a minute.
    fn is_plausible(&self, now: HostTime) -> bool {
        self.written_at <= now.plus(MAX_DIFFERENCE)
    }

    /// Returns from when polls of a queue may call, on this host's clock.
    pub fn allowed_from(&self, queue_name: QueueName) -> HostTime {
        let reserved_until = self.blocked_until.max(self.reserved_until);
        match queue_name {
            QueueName::Logins | QueueName::Webhooks | QueueName::Forwards => self.blocked_until,
            QueueName::PollsNow => reserved_until,
            QueueName::PollsDaily => reserved_until.max(self.deferred_until),
        }
    }

    /// Returns the state after Facebook refused a call for this rate limit. Calls are blocked for
    /// the longer of `wait` and the delay of [`RATE_LIMIT`] after this many blocks in a row. A
    /// refusal while calls are already blocked concerns a call that was under way, and starts no
    /// new block.
    #[must_use]
    pub fn after_refusal(self, now: HostTime, wait: Option<Duration>) -> Self {
        if self.blocked_until > now {
            let until = now.plus(wait.unwrap_or_default());
            return Self {
                blocked_until: self.blocked_until.max(until),
                ..self
            };
        }
        let delay = RATE_LIMIT.delay(self.consecutive_blocks);
        let until = now.plus(wait.unwrap_or_default().max(delay));
        Self {
            blocked_until: until.max(self.blocked_until),
            consecutive_blocks: self.consecutive_blocks.saturating_add(1),
            ..self
        }
    }

    /// Returns the state after a reply reported a usage of `percent` and that calls are possible
    /// again after `blocked_for`. Returns `None` if the stored state need not change.
    pub fn after_usage(self, now: HostTime, percent: u64, blocked_for: Duration) -> Option<Self> {
        if percent >= 100 {
            let is_blocked = self.blocked_until > now;
            return (!is_blocked).then(|| Self {
                percent,
                ..self.after_refusal(now, Some(blocked_for))
            });
        }
        let until = now.plus(RATE_LIMIT.first);
        let reserves = percent >= DEFER_PERCENT && self.reserved_until <= now;
        let defers = percent >= DEFER_DAILY_PERCENT && self.deferred_until <= now;
        (reserves || defers).then_some(Self {
            percent,
            deferred_until: if defers { until } else { self.deferred_until },
            reserved_until: if reserves { until } else { self.reserved_until },
            ..self
        })
    }
}

/// Changes the stored state of a bucket and returns the new one. Returns `None`, and writes
/// nothing, if `change` returns `None`. `change` is called again if another process writes the
/// state at the same time.
pub async fn update(
    store: &dyn Store,
    bucket: &str,
    now: HostTime,
    change: impl Fn(RateLimit) -> Option<RateLimit>,
) -> Result<Option<RateLimit>, StoreError> {
    loop {
        let stored: Option<Versioned<Option<RateLimit>>> =
            load_decodable(store, &key(bucket)).await?;
        let (version, stored) = stored.map_or((0, RateLimit::default()), |stored| {
            let plausible = stored.value.filter(|limit| limit.is_plausible(now));
            (stored.version, plausible.unwrap_or_default())
        });
        let Some(next) = change(stored) else {
            return Ok(None);
        };
        let next = RateLimit {
            written_at: now,
            ..next
        };
        // The record must exist for as long as it blocks or defers calls.
        let until = next.allowed_from(QueueName::PollsDaily);
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
    fn blocks_double_up_to_an_hour_unless_facebook_names_a_longer_wait() {
        let mut limit = RateLimit::default();
        let mut now = NOW;
        for minutes in [5, 10, 20, 40, 60, 60] {
            limit = limit.after_refusal(now, None);
            assert_eq!(now.until(limit.blocked_until).as_secs(), minutes * 60);
            let refused_again = limit.clone().after_refusal(now, None);
            assert_eq!(
                refused_again, limit,
                "calls under way at the same time are one refusal"
            );
            now = limit.blocked_until;
        }
        let longer = RateLimit::default().after_refusal(NOW, Some(Duration::from_secs(7200)));
        assert_eq!(NOW.until(longer.blocked_until).as_secs(), 7200);
    }

    #[test]
    fn the_last_tenth_is_reserved_for_logins_and_the_tenth_before_it_for_requests() {
        let unused = RateLimit::default;
        let may_call = |limit: &RateLimit| {
            QueueName::POLLS.map(|queue_name| limit.allowed_from(queue_name) <= NOW)
        };
        assert_eq!(unused().after_usage(NOW, 79, Duration::ZERO), None);
        let deferred = unused().after_usage(NOW, 80, Duration::ZERO).unwrap();
        assert_eq!(may_call(&deferred), [true, true, false]);
        assert_eq!(deferred.clone().after_usage(NOW, 89, Duration::ZERO), None);
        let reserved = deferred.after_usage(NOW, 90, Duration::ZERO).unwrap();
        assert_eq!(may_call(&reserved), [true, false, false]);
        assert_eq!(reserved.after_usage(NOW, 99, Duration::ZERO), None);
        let blocked = unused().after_usage(NOW, 120, Duration::ZERO).unwrap();
        assert_eq!(may_call(&blocked), [false, false, false]);
        assert_eq!(
            blocked.after_usage(NOW, 130, Duration::ZERO),
            None,
            "calls are already blocked"
        );
    }
}
