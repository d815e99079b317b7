//! The cookie that binds a login to the browser in which it began.

use axum::http::{HeaderMap, header};

/// The name of the cookie.
pub(super) const COOKIE_NAME: &str = "pagesync_login";

/// Returns the value of the cookie, or `None` if the browser did not send a value of the right
/// form: 43 characters of base64url, which are 32 bytes.
pub(super) fn login_cookie(headers: &HeaderMap) -> Option<&str> {
    let mut pairs = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == COOKIE_NAME)?;
    let is_base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (value.len() == 43 && value.bytes().all(is_base64url)).then_some(value)
}
