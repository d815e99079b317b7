//! Instants as text.

/// Returns an instant as RFC 3339 in UTC, with milliseconds where it has any.
pub fn rfc3339(at: impl Into<u64>) -> String {
    let millis: u64 = at.into();
    let instant = i64::try_from(millis)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    instant.map_or_else(|| format!("{millis} ms"), |instant| instant.to_string())
}
