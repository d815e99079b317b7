//! The program to which deliveries are forwarded.
//!
//! Invariant: its address cannot be printed, because addresses of webhooks often contain a secret.

use std::time::Duration;

use model::forward::FORWARD_RETENTION;
use secrecy::SecretString;

use super::forms::{parse_duration, parse_web_address};
use super::reader::SettingsReader;

/// The value of `PAGESYNC_FORWARD_URL` with which nothing is forwarded.
const NONE: &str = "none";

/// The program to which deliveries are forwarded.
#[derive(Debug, Clone)]
pub struct ForwardConfig {
    /// The address.
    pub url: SecretString,
    /// Which deliveries are forwarded.
    pub deliveries: ForwardedDeliveries,
    /// The webhook fields that the program needs.
    pub fields: Vec<String>,
    /// The age from which on a delivery is not forwarded.
    pub max_age: Duration,
}

/// Which deliveries are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedDeliveries {
    /// Those with a part that is not about the profile of a Page.
    Unhandled,
    /// Every delivery.
    All,
}

/// Reads the settings of the program. Returns `None` if its address is not set.
pub(super) fn read(reader: &mut SettingsReader<'_>) -> Option<ForwardConfig> {
    let url = reader.optional("PAGESYNC_FORWARD_URL", parse_url);
    let url = url.filter(|url| url != NONE);
    let deliveries = reader.value("PAGESYNC_FORWARD_DELIVERIES", parse_deliveries);
    let fields = reader.value("PAGESYNC_FORWARD_FIELDS", parse_fields);
    let max_age = reader.value("PAGESYNC_FORWARD_MAX_AGE", parse_max_age);
    Some(ForwardConfig {
        url: url?.into(),
        deliveries,
        fields,
        max_age,
    })
}

/// Parses an address, or [`NONE`].
fn parse_url(text: &str) -> Option<String> {
    if text == NONE {
        return Some(text.to_owned());
    }
    parse_web_address(text)
}

fn parse_deliveries(text: &str) -> Option<ForwardedDeliveries> {
    match text {
        "unhandled" => Some(ForwardedDeliveries::Unhandled),
        "all" => Some(ForwardedDeliveries::All),
        _ => None,
    }
}

fn parse_fields(text: &str) -> Option<Vec<String>> {
    let is_name = |name: &String| {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        (1..=60).contains(&name.len()) && name.bytes().all(is_plain)
    };
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    names.iter().all(is_name).then_some(names)
}

fn parse_max_age(text: &str) -> Option<Duration> {
    let accepted = Duration::from_secs(60)..=FORWARD_RETENTION;
    parse_duration(text).filter(|age| accepted.contains(age))
}
