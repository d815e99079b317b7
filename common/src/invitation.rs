//! Invitations: signed links that let somebody log in where not everybody may.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use model::time::HostTime;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

fn mac(secret: &SecretString, until: u64) -> Hmac<Sha256> {
    let key = secret.expose_secret().as_bytes();
    let mac = Hmac::<Sha256>::new_from_slice(key)
        .unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"));
    mac.chain_update(format!("pagesync invitation {until}"))
}

/// An invitation that is good until `until`, on our clock.
pub fn sign(secret: &SecretString, until: HostTime) -> String {
    let seconds = until.0 / 1000;
    let tag = mac(secret, seconds).finalize().into_bytes();
    format!("{seconds}.{}", BASE64.encode(tag))
}

/// Whether an invitation is ours and still good. Compares in constant time.
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
    fn an_invitation_is_good_for_its_secret_and_its_time() {
        let secret = SecretString::from("0123456789abcdef".to_owned());
        let invitation = sign(&secret, HostTime(100_000));
        assert!(is_valid(&secret, &invitation, HostTime(99_000)));
        assert!(!is_valid(&secret, &invitation, HostTime(100_000)));
        let other = SecretString::from("fedcba9876543210".to_owned());
        assert!(!is_valid(&other, &invitation, HostTime(0)));
        let longer = invitation.replacen("100.", "999.", 1);
        assert!(!is_valid(&secret, &longer, HostTime(0)));
        for odd in ["", ".", "100.", "100.!!", "x.y"] {
            assert!(!is_valid(&secret, odd, HostTime(0)), "{odd}");
        }
    }
}
