//! The hours in which webhooks arrived, by which an unusual silence is recognized.
//!
//! Invariant: a process writes at most one record an hour, so that a record costs nothing per webhook.

use std::time::Duration;

use model::time::HostTime;

use super::{load_all, put_write, write_records};
use crate::store::{RecordKey, RecordKind, Store, StoreError};

/// How long an hour is remembered.
const TTL: Duration = Duration::from_secs(14 * 24 * HOUR_MILLIS / 1000);
const HOUR_MILLIS: u64 = 3600 * 1000;
/// How many hours with webhooks must be known before a silence can be unusual.
const MIN_HOURS: usize = 24;
/// A shorter silence than this is never unusual.
const MIN_SILENCE_HOURS: u64 = 12;

/// Returns the number of the hour that contains `at`, counted from the UNIX epoch.
pub fn hour_of(at: HostTime) -> u64 {
    at.0 / HOUR_MILLIS
}

/// Records that webhooks arrived in an hour.
pub async fn add(store: &dyn Store, hour: u64) -> Result<(), StoreError> {
    // The ids of hours have the same number of digits until the year 2110.
    let key = RecordKey::new(RecordKind::WebhookHour, format!("{hour:07}"));
    let write = put_write(key, &true, None, Some(TTL));
    write_records(store, vec![write]).await.map(drop)
}

/// Returns for how many hours no webhook has arrived, if this is unusual at `now`.
pub async fn unusual_silence(store: &dyn Store, now: HostTime) -> Result<Option<u64>, StoreError> {
    let stored = load_all::<bool>(store, RecordKind::WebhookHour, "").await?;
    let hours: Vec<u64> = stored
        .iter()
        .filter_map(|(id, _)| id.parse().ok())
        .collect();
    Ok(silence(&hours, hour_of(now)))
}

/// Returns for how many hours no webhook has arrived at the hour `now`, if this is at least
/// [`MIN_SILENCE_HOURS`] and twice the longest silence between two of `hours`, which are in order.
fn silence(hours: &[u64], now: u64) -> Option<u64> {
    let last = hours.last().filter(|_| hours.len() >= MIN_HOURS)?;
    let gaps = hours.windows(2).map(|pair| pair[1] - pair[0]);
    let longest = gaps.max().unwrap_or(0);
    let present = now.saturating_sub(*last);
    (present >= MIN_SILENCE_HOURS.max(2 * longest)).then_some(present)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_unusual_if_it_is_twice_as_long_as_the_longest_one_before() {
        let busy: Vec<u64> = (1000..1030).collect();
        assert_eq!(silence(&busy, 1040), None, "11 hours");
        assert_eq!(silence(&busy, 1041), Some(12));
        assert_eq!(silence(&busy[..20], 2000), None, "too little is known");
        let mut with_nights = busy;
        with_nights.extend(1040..1050);
        assert_eq!(
            silence(&with_nights, 1070),
            None,
            "twice a night has 22 hours"
        );
        assert_eq!(silence(&with_nights, 1071), Some(22));
    }
}
