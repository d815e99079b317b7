//! The forms of values that several settings have.

use std::net::IpAddr;
use std::time::Duration;

/// Accepts the address of a web server to which pagesync sends tokens or people. The scheme must be
/// `https`. `http` is accepted only for a loopback address, or for a host without a dot, as in a
/// private network of containers.
pub(super) fn parse_web_address(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok()?;
    let host = url.host_str()?;
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    let is_private = match address {
        Ok(address) => IpAddr::is_loopback(&address),
        Err(_) => !host.contains('.'),
    };
    let is_protected = match url.scheme() {
        "https" => true,
        "http" => is_private,
        _ => false,
    };
    let is_bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (is_protected && is_bare).then(|| text.to_owned())
}

pub(super) fn parse_bool(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// Parses a whole number with a unit, such as `10s`, `5m` or `1h`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let units = [("s", 1_u64), ("m", 60), ("h", 3600)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(Duration::from_secs(
        number.parse::<u64>().ok()?.checked_mul(*factor)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_and_hosts_without_a_dot_need_no_tls() {
        for (address, is_accepted) in [
            ("http://127.0.0.1:9/x", true),
            ("http://[::1]:9/x", true),
            ("http://bot:8080/", true),
            ("https://bot.example/", true),
            ("http://bot.example/", false),
            ("http://127.0.0.1.evil.example/", false),
            ("http://[2a00::1]/", false),
            ("http://10.0.0.7/", false),
        ] {
            assert_eq!(
                parse_web_address(address).is_some(),
                is_accepted,
                "{address}"
            );
        }
    }
}
