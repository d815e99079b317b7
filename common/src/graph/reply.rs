//! The successful replies of Graph and their headers: the stamp, the version and the usage of rate
//! limits.

use std::collections::BTreeMap;
use std::time::Duration;

use model::read::{StampError, read_stamp};
use model::time::{FacebookTime, HostTime};
use reqwest::header::{AGE, DATE, HeaderMap};
use serde_json::Value as Json;

/// A successful reply of Graph.
#[derive(Debug)]
pub struct Reply {
    /// The body.
    pub body: Json,
    /// The stamp of the reply, or the reason why the reply has none.
    pub stamp: Result<FacebookTime, ReplyTimeError>,
}

/// How much of a rate limit is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The highest of the reported percentages. It can exceed 100.
    pub percent: u64,
    /// How long calls are still refused; zero if they are not.
    pub blocked_for: Duration,
}

/// The reason why a reply has no stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyTimeError {
    /// The header `Date` is missing or appears several times.
    #[error("it has no Date header, or several")]
    NoDate,
    /// The header `Date` is not an HTTP date.
    #[error("its Date header is not an HTTP date")]
    UnreadableDate,
    /// The header `Age` is not a number of seconds.
    #[error("its Age header is not a number of seconds")]
    UnreadableAge,
    /// The headers give an implausible time.
    #[error("{0}")]
    Stamp(#[from] StampError),
}

/// Returns the stamp of a reply with these headers: the earliest time at which Graph made it, on
/// Facebook's clock.
///
/// `took` is the duration of the request. `now`, on this host's clock, is used only to refuse an
/// implausible `Date`.
pub fn stamp(
    headers: &HeaderMap,
    took: Duration,
    now: HostTime,
) -> Result<FacebookTime, ReplyTimeError> {
    let mut dates = headers.get_all(DATE).iter();
    let (Some(date), None) = (dates.next(), dates.next()) else {
        return Err(ReplyTimeError::NoDate);
    };
    let date = date
        .to_str()
        .ok()
        .and_then(|text| httpdate::parse_http_date(text).ok());
    let since = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
    let date = since.ok_or(ReplyTimeError::UnreadableDate)?;
    let age = match headers.get(AGE) {
        None => 0,
        Some(age) => {
            let seconds = age.to_str().ok().and_then(|text| text.trim().parse().ok());
            seconds.ok_or(ReplyTimeError::UnreadableAge)?
        }
    };
    let date = FacebookTime(u64::try_from(date.as_millis()).unwrap_or(u64::MAX));
    Ok(read_stamp(date, Duration::from_secs(age), took, now)?)
}

/// Returns the version of Graph that served the reply, from `facebook-api-version`.
pub fn version(headers: &HeaderMap) -> Option<String> {
    let version = headers.get("facebook-api-version")?.to_str().ok()?;
    Some(version.to_owned())
}

/// Returns the usage of rate limits by bucket: `app` from `X-App-Usage`, `page:<id>` from
/// `X-Business-Use-Case-Usage`. Headers that cannot be parsed are ignored. Source: "Rate limiting"
/// of the Graph API.
pub fn usage(headers: &HeaderMap) -> BTreeMap<String, Usage> {
    let json = |name: &str| -> Option<Json> {
        serde_json::from_str(headers.get(name)?.to_str().ok()?).ok()
    };
    let mut usage = BTreeMap::new();
    if let Some(app) = json("x-app-usage") {
        usage.insert(
            "app".to_owned(),
            Usage {
                percent: percent(&app),
                blocked_for: Duration::ZERO,
            },
        );
    }
    let use_cases = json("x-business-use-case-usage");
    for (id, list) in use_cases
        .as_ref()
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
    {
        let entries = list.as_array().into_iter().flatten();
        for entry in entries.filter(|entry| entry["type"] == "pages") {
            let minutes = entry["estimated_time_to_regain_access"]
                .as_f64()
                .unwrap_or(0.0);
            let blocked_for = Duration::from_secs_f64(minutes.clamp(0.0, 1440.0) * 60.0);
            usage.insert(
                format!("page:{id}"),
                Usage {
                    percent: percent(entry),
                    blocked_for,
                },
            );
        }
    }
    usage
}

/// Returns the highest percentage of a usage object.
fn percent(usage: &Json) -> u64 {
    let names = ["call_count", "total_time", "total_cputime"];
    let highest = names
        .iter()
        .filter_map(|name| usage.get(*name)?.as_f64())
        .fold(0.0, f64::max);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the value is clamped to 0..=10,000"
    )]
    let percent = highest.clamp(0.0, 10_000.0) as u64;
    percent
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: HostTime = HostTime(1_750_000_000_000);

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn stamp_of(pairs: &[(&'static str, &str)]) -> Result<FacebookTime, ReplyTimeError> {
        stamp(&headers(pairs), Duration::from_millis(200), NOW)
    }

    #[test]
    fn an_implausible_date_gives_no_stamp() {
        // 1750000000 is 15:06:40 UTC of that day.
        let date = ("date", "Sun, 15 Jun 2025 15:06:40 GMT");
        assert_eq!(stamp_of(&[date]), Ok(FacebookTime(1_749_999_999_000)));
        assert_eq!(
            stamp_of(&[date, ("age", "10")]),
            Ok(FacebookTime(1_749_999_989_000))
        );
        assert!(stamp_of(&[]).is_err());
        assert!(stamp_of(&[date, date]).is_err());
        assert!(stamp_of(&[("date", "yesterday")]).is_err());
        assert!(stamp_of(&[date, ("age", "999999")]).is_err());
        assert!(stamp_of(&[date, ("age", "-1")]).is_err());
        assert!(stamp_of(&[("date", "Mon, 15 Jun 2026 15:06:40 GMT")]).is_err());
        let behind = stamp_of(&[("date", "Sat, 15 Jun 2024 15:06:40 GMT")]).unwrap();
        assert!(
            behind < FacebookTime(NOW.0),
            "a Date behind this host's clock is accepted"
        );
    }

    #[test]
    fn the_version_is_read_from_its_header() {
        let recorded = [
            ("facebook-api-version", "v22.0"),
            (
                "x-ad-api-version-warning",
                "The call has been auto-upgraded to v22.0 as v20.0 will be deprecated.",
            ),
            (
                "www-authenticate",
                "OAuth \"Facebook Platform\" \"invalid_request\" \"x\"",
            ),
        ];
        assert_eq!(version(&headers(&recorded)).as_deref(), Some("v22.0"));
        assert_eq!(version(&headers(&[])), None);
    }

    #[test]
    fn unknown_and_malformed_usage_is_ignored() {
        let parsed = usage(&headers(&[
            (
                "x-app-usage",
                r#"{"call_count":91,"total_cputime":15.5,"total_time":12,"new":"x"}"#,
            ),
            (
                "x-business-use-case-usage",
                r#"{"112":[{"type":"pages","call_count":101,"estimated_time_to_regain_access":7},{"type":"messenger","call_count":300}]}"#,
            ),
        ]));
        assert_eq!(parsed["app"].percent, 91);
        assert_eq!(parsed["page:112"].percent, 101);
        assert_eq!(parsed["page:112"].blocked_for, Duration::from_secs(420));
        assert!(usage(&headers(&[("x-app-usage", "{}, {}")])).is_empty());
    }
}
