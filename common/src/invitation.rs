//! Signs and verifies invitations, which allow a login where logins are restricted, and which connect
//! a login to a client.
//!
//! An invitation is `<kind>-<id>.<expiry in seconds since the UNIX epoch>.<HMAC-SHA256 in URL-safe
//! Base64>`. Invariants: an invitation is valid only with the secret that signed it and before its
//! expiry, and it is good for one person: the one that it names, or the first one who uses it.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, Mac as _};
use model::id::UserId;
use model::time::HostTime;
use reqwest::Url;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::config::{Config, LoginPolicy};
use crate::signing::hmac_sha256;

/// The person for whom an invitation is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invitation {
    /// The first person who uses it. The record with this id says more.
    Stored(String),
    /// This person, who logs in again.
    Person(UserId),
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(id) => write!(f, "i-{id}"),
            Self::Person(user) => write!(f, "p-{user}"),
        }
    }
}

impl Invitation {
    /// Parses the form that `Display` writes. Returns `None` if `text` does not have it.
    fn parse(text: &str) -> Option<Self> {
        let is_id = |id: &str| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
        match text.split_once('-')? {
            ("i", id) if is_id(id) => Some(Self::Stored(id.to_owned())),
            ("p", user) => UserId::parse(user).ok().map(Self::Person),
            _ => None,
        }
    }

    fn mac(&self, secret: &SecretString, expires_seconds: u64) -> Hmac<Sha256> {
        hmac_sha256(secret).chain_update(format!("pagesync invitation {self} {expires_seconds}"))
    }

    /// Returns the text of this invitation, which expires at `expires_at`, rounded down to a second.
    pub fn sign(&self, secret: &SecretString, expires_at: HostTime) -> String {
        let seconds = expires_at.0 / 1000;
        let tag = self.mac(secret, seconds).finalize().into_bytes();
        format!("{self}.{seconds}.{}", BASE64.encode(tag))
    }

    /// Returns the invitation in a text if `secret` signed it and it has not expired at `now`. The
    /// signature is compared in constant time.
    pub fn verify(secret: &SecretString, text: &str, now: HostTime) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let invitation = Self::parse(parts.next()?)?;
        let seconds: u64 = parts.next()?.parse().ok()?;
        let tag = BASE64.decode(parts.next()?).ok()?;
        let mac = invitation.mac(secret, seconds);
        (mac.verify_slice(&tag).is_ok() && now.0 / 1000 < seconds).then_some(invitation)
    }
}

/// For how long the invitation in an address to log in again is valid.
const SHOWN: Duration = Duration::from_secs(7 * 24 * 3600);

/// Returns the address where people log in, with an invitation. With `asks_again`, Facebook asks again for
/// permissions that the person declined. Returns `None` if the public address is not set.
pub fn login_address(config: &Config, invitation: Option<&str>, asks_again: bool) -> Option<Url> {
    let public_url = Some(config.public_url()).filter(|address| !address.is_empty())?;
    let mut address = Url::parse(&format!("{public_url}/facebook/login")).ok()?;
    if let Some(invitation) = invitation {
        address
            .query_pairs_mut()
            .append_pair("invitation", invitation);
    }
    if asks_again {
        address.query_pairs_mut().append_pair("rerequest", "true");
    }
    Some(address)
}

/// Returns the address where a person who is known logs in again, and where Facebook asks again for
/// permissions that they declined. It is valid for seven days. Returns `None` if a setting is missing.
pub fn address_to_log_in_again(config: &Config, user: &UserId, now: HostTime) -> Option<String> {
    let invitation = match &config.invitation_secret {
        None if config.login_policy == LoginPolicy::Open => None,
        secret => {
            let invitation = Invitation::Person(user.clone());
            Some(invitation.sign(secret.as_ref()?, now.plus(SHOWN)))
        }
    };
    Some(login_address(config, invitation.as_deref(), true)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_valid_for_its_secret_until_it_expires() {
        let secret = SecretString::from("0123456789abcdef".to_owned());
        let other = SecretString::from("fedcba9876543210".to_owned());
        let user = UserId::parse("200000000000001").unwrap();
        for (invitation, other_name) in [
            (
                Invitation::Stored("0123456789abcdef0123456789abcdef".to_owned()),
                "i-0123456789abcdef0123456789abcdee",
            ),
            (Invitation::Person(user), "p-200000000000002"),
        ] {
            let text = invitation.sign(&secret, HostTime(100_000));
            let verify = |secret, text: &str, at| Invitation::verify(secret, text, HostTime(at));
            assert_eq!(verify(&secret, &text, 99_000), Some(invitation.clone()));
            assert_eq!(verify(&secret, &text, 100_000), None);
            assert_eq!(verify(&other, &text, 0), None);
            let later = text.replacen(".100.", ".999.", 1);
            let name = invitation.to_string();
            let renamed = text.replacen(&name, other_name, 1);
            for forged in [later, renamed] {
                assert_ne!(forged, text);
                assert_eq!(verify(&secret, &forged, 0), None);
            }
        }
        for malformed in ["", ".", "i-1.100.x", "p-.1.", "x-1.1.1", "p-1.9"] {
            assert_eq!(Invitation::verify(&secret, malformed, HostTime(0)), None);
        }
    }
}
