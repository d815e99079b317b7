//! The forms of values that several settings have.

/// Accepts the address of a web server to which pagesync sends tokens or people. The scheme must be
/// `https`. `http` is accepted only for a loopback address, or for a host without a dot, as in a
/// private network of containers.
pub(super) fn parse_web_address(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok()?;
    let host = url.host_str()?;
    let is_private = !host.contains('.') || host.starts_with("127.");
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
