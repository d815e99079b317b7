//! The state that a browser carries to Facebook's dialog and back.
//!
//! Nothing is stored when a login begins: the state itself contains what the callback needs, and a
//! MAC proves that a process of this deployment made it.
//!
//! Invariant: a state is valid only with the cookie of the browser in which its login began. It
//! contains the hash of the cookie and no secret.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use common::config::Config;
use common::sealing::random_text;
use common::signing::hmac_sha256;
use hmac::Mac as _;
use model::hex::hex;
use model::time::HostTime;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// How long a person may take in Facebook's dialog.
pub(super) const TTL: Duration = Duration::from_secs(600);
/// How far the clocks of two processes of this deployment may differ. A state that seems to be made
/// later than that is refused, because the record of its login could end before it.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(300);
/// The longest accepted state, in bytes.
const MAX_STATE: usize = 400;
/// The number of random bytes in a state.
const NONCE_BYTES: usize = 16;

/// The keys that sign states: the first one signs, and each of them verifies.
#[derive(Debug)]
pub(super) struct StateKeys(Vec<SecretString>);

/// The reason why a state is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateError {
    /// No process of this deployment made the state.
    Unknown,
    /// The login began in another browser.
    OtherBrowser,
}

/// A state that a process of this deployment made for this browser.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct VerifiedState {
    /// The invitation with which the login began; empty if it needed none.
    pub(super) invitation: String,
    /// When the state expires, on the clock of the process that made it.
    expires_at: HostTime,
}

impl StateKeys {
    /// Derives the keys from `STATE_TOKEN_SECRET` or, if it is not set, from the app secrets.
    pub(super) fn new(config: &Config) -> Self {
        let secrets = match &config.invitation_secret {
            Some(secret) => std::slice::from_ref(secret),
            None => &config.app_secrets,
        };
        // The secrets sign other things, too. A key of its own makes sure that a state is never a
        // valid signature of something else.
        let derive = |secret: &SecretString| {
            let tag = hmac_sha256(secret).chain_update("pagesync key of login states");
            SecretString::from(hex(&tag.finalize().into_bytes()))
        };
        Self(secrets.iter().map(derive).collect())
    }

    /// Returns the state of a login that begins at `now`. Fails if the operating system returns no
    /// random bytes, or if there is no key.
    pub(super) fn sign(
        &self,
        cookie: &str,
        invitation: &str,
        now: HostTime,
    ) -> Result<String, getrandom::Error> {
        let key = self.0.first().ok_or(getrandom::Error::UNSUPPORTED)?;
        let nonce = random_text(NONCE_BYTES)?;
        let expires_at = now.plus(TTL).0 / 1000;
        let content = format!("{nonce}.{expires_at}.{}.{invitation}", hash(cookie));
        let tag = hmac_sha256(key)
            .chain_update(&content)
            .finalize()
            .into_bytes();
        Ok(format!("{content}.{}", BASE64.encode(tag)))
    }

    /// Verifies a state that a browser with `cookie` returned.
    pub(super) fn verify(&self, state: &str, cookie: &str) -> Result<VerifiedState, StateError> {
        if state.len() > MAX_STATE {
            return Err(StateError::Unknown);
        }
        let (content, tag) = state.rsplit_once('.').ok_or(StateError::Unknown)?;
        let tag = BASE64.decode(tag).map_err(|_| StateError::Unknown)?;
        let is_signed_with = |key: &SecretString| {
            let mac = hmac_sha256(key).chain_update(content);
            mac.verify_slice(&tag).is_ok()
        };
        if !self.0.iter().any(is_signed_with) {
            return Err(StateError::Unknown);
        }
        let mut parts = content.splitn(4, '.').skip(1);
        let seconds = parts.next().and_then(|text| text.parse::<u64>().ok());
        let (Some(seconds), Some(cookie_hash), Some(invitation)) =
            (seconds, parts.next(), parts.next())
        else {
            return Err(StateError::Unknown);
        };
        if !bool::from(hash(cookie).as_bytes().ct_eq(cookie_hash.as_bytes())) {
            return Err(StateError::OtherBrowser);
        }
        Ok(VerifiedState {
            invitation: invitation.to_owned(),
            expires_at: HostTime(seconds.saturating_mul(1000)),
        })
    }
}

impl VerifiedState {
    /// Returns whether a login with this state may be completed at `now`.
    pub(super) fn is_usable(&self, now: HostTime) -> bool {
        now < self.expires_at && self.expires_at <= now.plus(TTL).plus(MAX_CLOCK_DIFFERENCE)
    }

    /// Returns when the login began, on the clock of the process that made the state.
    pub(super) fn began_at(&self) -> HostTime {
        self.expires_at.minus(TTL)
    }
}

fn hash(cookie: &str) -> String {
    BASE64.encode(Sha256::digest(cookie.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secrets: &[&str]) -> StateKeys {
        let secret = |text: &&str| SecretString::from((*text).to_owned());
        StateKeys(secrets.iter().map(secret).collect())
    }

    #[test]
    fn a_state_is_valid_for_its_browser_and_its_keys() {
        let now = HostTime(1_000_000);
        let state = keys(&["new"]).sign("cookie", "99.tag", now).unwrap();
        let verified = keys(&["other", "new"]).verify(&state, "cookie").unwrap();
        assert_eq!(verified.invitation, "99.tag");
        assert_eq!(verified.began_at(), now);
        let other = keys(&["new"]).verify(&state, "another cookie");
        assert_eq!(other, Err(StateError::OtherBrowser));
        let unknown = keys(&["other"]).verify(&state, "cookie");
        assert_eq!(unknown, Err(StateError::Unknown));
        let again = keys(&["new"]).sign("cookie", "99.tag", now).unwrap();
        assert_ne!(state, again, "each login has a state of its own");
    }

    #[test]
    fn a_changed_state_is_unknown() {
        let keys = keys(&["key"]);
        let state = keys.sign("cookie", "", HostTime(1_000_000)).unwrap();
        for position in 0..state.len() {
            let mut bytes = state.clone().into_bytes();
            bytes[position] = if bytes[position] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(keys.verify(&changed, "cookie").is_err(), "{position}");
        }
        for malformed in ["", ".", "...", "a.b.c.d.e", &"x".repeat(10_000)] {
            assert!(keys.verify(malformed, "cookie").is_err(), "{malformed:.20}");
        }
    }

    #[test]
    fn a_state_can_be_used_for_ten_minutes() {
        let began_at = HostTime(1_000_000);
        let keys = keys(&["key"]);
        let state = keys.sign("cookie", "", began_at).unwrap();
        let verified = keys.verify(&state, "cookie").unwrap();
        let after = |seconds| began_at.plus(Duration::from_secs(seconds));
        assert!(verified.is_usable(began_at));
        assert!(verified.is_usable(after(599)));
        assert!(!verified.is_usable(after(600)));
        assert!(verified.is_usable(began_at.minus(MAX_CLOCK_DIFFERENCE)));
        assert!(!verified.is_usable(began_at.minus(Duration::from_secs(301))));
    }
}
