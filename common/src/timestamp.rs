//! Formats instants as text.

/// Returns an instant, in milliseconds since the UNIX epoch, as RFC 3339 in UTC. The text has
/// milliseconds only if they are not zero. An instant after the year 9999 is returned as a number
/// with the unit `ms`.
pub fn rfc3339(at: impl Into<u64>) -> String {
    let millis: u64 = at.into();
    let instant = i64::try_from(millis)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    instant.map_or_else(|| format!("{millis} ms"), |instant| instant.to_string())
}
