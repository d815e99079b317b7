//! What an answer of Graph says in its headers: when it was made, how much of a limit is used.

use std::collections::BTreeMap;
use std::time::Duration;

use model::read::{StampError, read_stamp};
use model::time::{FacebookTime, HostTime};
use reqwest::header::{AGE, DATE, HeaderMap};
use serde_json::Value as Json;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its body.
    pub body: Json,
    /// When it was made at the earliest, on Facebook's clock; or why that cannot be told.
    pub stamp: Result<FacebookTime, ReplyTimeError>,
}

/// How much of a limit is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The worst of the percentages; may be over 100.
    pub percent: u64,
    /// How long until calls are answered again.
    pub regain: Duration,
}

/// Why the time of a reply is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyTimeError {
    /// The header `Date` is missing or appears several times.
    #[error("it has no Date, or several")]
    NoDate,
    /// The header `Date` is not an HTTP date.
    #[error("its Date cannot be read")]
    UnreadableDate,
    /// The header `Age` is not a number of seconds.
    #[error("its Age cannot be read")]
    UnreadableAge,
    /// The headers give a time that cannot be believed.
    #[error("{0}")]
    Stamp(#[from] StampError),
}

/// When an answer with these headers was made at the earliest.
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

/// The version that served, from `facebook-api-version`.
pub fn version(headers: &HeaderMap) -> Option<String> {
    let version = headers.get("facebook-api-version")?.to_str().ok()?;
    Some(version.to_owned())
}

/// Usage by bucket: `app` from `X-App-Usage`, `page:<id>` from `X-Business-Use-Case-Usage`. What
/// cannot be read says nothing. Source: "Rate limiting" of the Graph API.
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
                regain: Duration::ZERO,
            },
        );
    }
    let cases = json("x-business-use-case-usage");
    for (id, list) in cases
        .as_ref()
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
    {
        let pages = list.as_array().into_iter().flatten();
        for one in pages.filter(|one| one["type"] == "pages") {
            let minutes = one["estimated_time_to_regain_access"]
                .as_f64()
                .unwrap_or(0.0);
            let regain = Duration::from_secs_f64(minutes.clamp(0.0, 1440.0) * 60.0);
            usage.insert(
                format!("page:{id}"),
                Usage {
                    percent: percent(one),
                    regain,
                },
            );
        }
    }
    usage
}

fn percent(usage: &Json) -> u64 {
    let names = ["call_count", "total_time", "total_cputime"];
    let worst = names
        .iter()
        .filter_map(|name| usage.get(*name)?.as_f64())
        .fold(0.0, f64::max);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped"
    )]
    let percent = worst.clamp(0.0, 10_000.0) as u64;
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

    fn stamped(pairs: &[(&'static str, &str)]) -> Result<FacebookTime, ReplyTimeError> {
        stamp(&headers(pairs), Duration::from_millis(200), NOW)
    }

    #[test]
    fn a_date_that_cannot_be_believed_gives_no_stamp() {
        // 1750000000 is 15:06:40 of that day.
        let date = ("date", "Sun, 15 Jun 2025 15:06:40 GMT");
        assert_eq!(stamped(&[date]), Ok(FacebookTime(1_749_999_999_000)));
        assert_eq!(
            stamped(&[date, ("age", "10")]),
            Ok(FacebookTime(1_749_999_989_000))
        );
        assert!(stamped(&[]).is_err());
        assert!(stamped(&[date, date]).is_err());
        assert!(stamped(&[("date", "yesterday")]).is_err());
        assert!(stamped(&[date, ("age", "999999")]).is_err());
        assert!(stamped(&[date, ("age", "-1")]).is_err());
        assert!(stamped(&[("date", "Mon, 15 Jun 2026 15:06:40 GMT")]).is_err());
        let behind = stamped(&[("date", "Sat, 15 Jun 2024 15:06:40 GMT")]).unwrap();
        assert!(
            behind < FacebookTime(NOW.0),
            "Facebook's clock is believed where it is behind ours"
        );
    }

    #[test]
    fn the_version_that_served_is_known() {
        let real = [
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
        assert_eq!(version(&headers(&real)).as_deref(), Some("v22.0"));
        assert_eq!(version(&headers(&[])), None);
    }

    #[test]
    fn usage_is_read_tolerantly() {
        let read = usage(&headers(&[
            (
                "x-app-usage",
                r#"{"call_count":91,"total_cputime":15.5,"total_time":12,"new":"x"}"#,
            ),
            (
                "x-business-use-case-usage",
                r#"{"112":[{"type":"pages","call_count":101,"estimated_time_to_regain_access":7},{"type":"messenger","call_count":300}]}"#,
            ),
        ]));
        assert_eq!(read["app"].percent, 91);
        assert_eq!(read["page:112"].percent, 101);
        assert_eq!(read["page:112"].regain, Duration::from_secs(420));
        assert!(usage(&headers(&[("x-app-usage", "{}, {}")])).is_empty());
    }
}
