//! The destinations to which changes are posted.
//!
//! Invariant: neither an address nor a secret of a destination can be printed, because addresses of
//! webhooks often contain a secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::SecretString;
use serde::Deserialize;

use super::forms::{parse_bool, parse_web_address};
use super::reader::SettingsReader;

/// The name of the destination of `PAGESYNC_CHANGES_URL`.
pub const DEFAULT_NAME: &str = "default";
/// The beginning of a secret, as the Standard Webhooks specification writes it.
const SECRET_PREFIX: &str = "whsec_";
/// The shortest and the longest secret in bytes, by the specification.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A destination to which changes are posted.
#[derive(Debug, Clone)]
pub struct DestinationConfig {
    /// The name, which is stored with the place up to which changes were posted.
    pub name: String,
    /// The address.
    pub url: SecretString,
    /// The secret that signs posts, in the form `whsec_<Base64>`.
    pub secret: SecretString,
    /// The value of the header `Authorization`; `None` for no such header.
    pub authorization: Option<SecretString>,
    /// Whether the values are left out.
    pub is_thin: bool,
}

/// A destination in the list of `PAGESYNC_DESTINATIONS`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: String,
    url: String,
    secret: String,
    #[serde(default)]
    authorization: Option<String>,
    #[serde(default)]
    thin: bool,
}

/// Reads the destination of `PAGESYNC_CHANGES_URL` and those of `PAGESYNC_DESTINATIONS`.
pub(super) fn read(reader: &mut SettingsReader<'_>) -> Vec<DestinationConfig> {
    const SECRET: &str = "PAGESYNC_CHANGES_SECRET";
    let url = reader.optional("PAGESYNC_CHANGES_URL", parse_web_address);
    let secret = reader.required_by_role(SECRET, url.is_some(), parse_secret);
    let authorization = reader.secret("PAGESYNC_CHANGES_AUTHORIZATION", 1, false);
    let is_thin = reader.value("PAGESYNC_CHANGES_THIN", parse_bool);
    let listed = reader.optional("PAGESYNC_DESTINATIONS", parse_list);
    let default = url.zip(secret).map(|(url, secret)| DestinationConfig {
        name: DEFAULT_NAME.to_owned(),
        url: url.into(),
        secret,
        authorization,
        is_thin,
    });
    default
        .into_iter()
        .chain(listed.into_iter().flatten())
        .collect()
}

fn parse_secret(text: &str) -> Option<SecretString> {
    let bytes = BASE64.decode(text.strip_prefix(SECRET_PREFIX)?).ok()?;
    let is_long = SECRET_BYTES.contains(&bytes.len());
    is_long.then(|| SecretString::from(text.to_owned()))
}

/// Returns the bytes of a secret, with which posts are signed. Empty if the text is no secret.
pub fn secret_bytes(text: &str) -> Vec<u8> {
    let encoded = text.strip_prefix(SECRET_PREFIX).unwrap_or_default();
    BASE64.decode(encoded).unwrap_or_default()
}

/// Parses a list of destinations with different names.
fn parse_list(text: &str) -> Option<Vec<DestinationConfig>> {
    let listed: Vec<Listed> = serde_json::from_str(text).ok()?;
    let mut names: Vec<&str> = listed.iter().map(|one| one.name.as_str()).collect();
    names.push(DEFAULT_NAME);
    names.sort_unstable();
    let is_name = |name: &str| {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=40).contains(&name.len()) && name.bytes().all(is_plain)
    };
    if names.windows(2).any(|pair| pair[0] == pair[1]) || !names.iter().all(|name| is_name(name)) {
        return None;
    }
    let destination = |one: Listed| {
        Some(DestinationConfig {
            url: parse_web_address(&one.url)?.into(),
            secret: parse_secret(&one.secret)?,
            authorization: one.authorization.map(SecretString::from),
            is_thin: one.thin,
            name: one.name,
        })
    };
    listed.into_iter().map(destination).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_with_a_short_secret_a_repeated_name_or_a_public_http_address_is_refused() {
        let secret = format!("whsec_{}", BASE64.encode([7; 32]));
        let list = |name: &str, url: &str, secret: &str| {
            parse_list(&format!(
                r#"[{{"name":"a","url":"http://bot:8080/x","secret":"{secret}"}},{{"name":"{name}","url":"{url}","secret":"{secret}"}}]"#
            ))
        };
        let accepted = list("b", "https://bot.example/changes?key=1", &secret).unwrap();
        assert_eq!(accepted.len(), 2);
        assert!(!format!("{accepted:?}").contains("bot"), "{accepted:?}");
        for (name, url, secret) in [
            ("a", "https://bot.example/", &*secret),
            ("default", "https://bot.example/", &secret),
            ("b/c", "https://bot.example/", &secret),
            ("b", "http://bot.example/", &secret),
            ("b", "https://bot.example/", "whsec_c2hvcnQ="),
            ("b", "https://bot.example/", &secret[6..]),
        ] {
            assert!(list(name, url, secret).is_none(), "{name} {url}");
        }
    }
}
