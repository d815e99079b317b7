//! The hours in which webhooks arrived, by which an unusual silence is recognized.
//!
//! Invariant: a process writes at most one record an hour, so that a record costs nothing per webhook.

use std::time::Duration;

use model::time::HostTime;

use super::{load_all, put_write, write_records};
use crate::store::{RecordKey, RecordKind, Store, StoreError};

/// How long an hour is remembered.
const TTL: Duration = Duration::from_secs(14 * 24 * 3600);
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

/// Returns for how many hours no webhook has arrived, if this is unusual at `now`. A silence that is known
/// since `open_since` lasts until a webhook arrives, although the hours before it are forgotten.
pub async fn unusual_silence(
    store: &dyn Store,
    open_since: Option<HostTime>,
    now: HostTime,
) -> Result<Option<u64>, StoreError> {
    let stored = load_all::<bool>(store, RecordKind::WebhookHour, "").await?;
    let hours: Vec<u64> = stored
        .iter()
        .filter_map(|(id, _)| id.parse().ok())
        .collect();
    Ok(silence(&hours, open_since.map(hour_of), hour_of(now)))
}

/// Returns for how many hours no webhook has arrived at the hour `now`, if this is at least
/// [`MIN_SILENCE_HOURS`] and twice the longest silence between two of `hours`, which are in order.
fn silence(hours: &[u64], open_since: Option<u64>, now: u64) -> Option<u64> {
    if let Some(since) = open_since
        && hours.last().is_none_or(|last| *last < since)
    {
        return Some(now.saturating_sub(hours.last().copied().unwrap_or(since)));
    }
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
        assert_eq!(silence(&busy, None, 1040), None, "11 hours");
        assert_eq!(silence(&busy, None, 1041), Some(12));
        assert_eq!(
            silence(&busy[..20], None, 2000),
            None,
            "too little is known"
        );
        let open = |hours: &[u64], now| silence(hours, Some(1041), now);
        assert_eq!(
            open(&busy[20..], 1300),
            Some(271),
            "the others are forgotten"
        );
        assert_eq!(open(&[], 1400), Some(359));
        assert_eq!(open(&[1301], 1302), None, "a webhook has arrived");
        let mut with_nights = busy;
        with_nights.extend(1040..1050);
        assert_eq!(
            silence(&with_nights, None, 1070),
            None,
            "twice a night has 22 hours"
        );
        assert_eq!(silence(&with_nights, None, 1071), Some(22));
    }
}
