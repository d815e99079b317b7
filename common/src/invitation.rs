//! Signs and verifies invitations, which allow a login where logins are restricted.
//!
//! An invitation is `<expiry in seconds since the UNIX epoch>.<HMAC-SHA256 in URL-safe Base64>`.
//! Invariant: an invitation is valid only with the secret that signed it and before its expiry.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, Mac as _};
use model::time::HostTime;
use secrecy::SecretString;
use sha2::Sha256;

use crate::signing::hmac_sha256;

fn mac(secret: &SecretString, expires_seconds: u64) -> Hmac<Sha256> {
    hmac_sha256(secret).chain_update(format!("pagesync invitation {expires_seconds}"))
}

/// Returns an invitation that expires at `expires_at`, rounded down to a second.
pub fn sign(secret: &SecretString, expires_at: HostTime) -> String {
    let seconds = expires_at.0 / 1000;
    let tag = mac(secret, seconds).finalize().into_bytes();
    format!("{seconds}.{}", BASE64.encode(tag))
}

/// Returns whether `secret` signed the invitation and it has not expired at `now`. The signature is
/// compared in constant time.
pub fn is_valid(secret: &SecretString, invitation: &str, now: HostTime) -> bool {
    let Some((seconds, tag)) = invitation.split_once('.') else {
        return false;
    };
    let (Ok(seconds), Ok(tag)) = (seconds.parse::<u64>(), BASE64.decode(tag)) else {
        return false;
    };
    mac(secret, seconds).verify_slice(&tag).is_ok() && now.0 / 1000 < seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_valid_for_its_secret_until_it_expires() {
        let secret = SecretString::from("0123456789abcdef".to_owned());
        let invitation = sign(&secret, HostTime(100_000));
        assert!(is_valid(&secret, &invitation, HostTime(99_000)));
        assert!(!is_valid(&secret, &invitation, HostTime(100_000)));
        let other = SecretString::from("fedcba9876543210".to_owned());
        assert!(!is_valid(&other, &invitation, HostTime(0)));
        let extended = invitation.replacen("100.", "999.", 1);
        assert!(!is_valid(&secret, &extended, HostTime(0)));
        for malformed in ["", ".", "100.", "100.!!", "x.y"] {
            assert!(!is_valid(&secret, malformed, HostTime(0)), "{malformed}");
        }
    }
}
