//! HMAC-SHA256 with a secret of this deployment or of the app.

use hmac::{Hmac, KeyInit as _, Mac as _};
use model::hex::hex;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

/// Returns an HMAC-SHA256 with the key `secret` and an empty message.
pub fn hmac_sha256(secret: &SecretString) -> Hmac<Sha256> {
    hmac_sha256_with_key(secret.expose_secret().as_bytes())
}

/// Returns an HMAC-SHA256 with a key that is no text, and an empty message.
pub fn hmac_sha256_with_key(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC accepts a key of any length"))
}

/// Returns the value of `X-Hub-Signature-256` for a body, as Facebook makes it with the app secret.
pub fn webhook_signature(secret: &SecretString, body: &str) -> String {
    let tag = hmac_sha256(secret).chain_update(body).finalize();
    format!("sha256={}", hex(&tag.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: RFC 4231, test case 2.
    #[test]
    fn the_hmac_of_a_known_key_and_message_is_the_published_one() {
        let key = SecretString::from("Jefe".to_owned());
        let mac = hmac_sha256(&key).chain_update("what do ya want for nothing?");
        assert_eq!(
            hex(&mac.finalize().into_bytes()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
