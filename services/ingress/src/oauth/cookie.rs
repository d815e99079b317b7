//! The cookie that binds a login to a browser.

use axum::http::{HeaderMap, header};

/// The cookie that binds a login to the browser it began in.
pub(super) const COOKIE: &str = "pagesync_login";

/// The value of our cookie, if the browser sent one of its form.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let mut pairs = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == COOKIE)?;
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (value.len() == 43 && value.bytes().all(harmless)).then_some(value)
}
