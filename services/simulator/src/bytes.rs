//! Writes JSON exactly as Facebook does, and computes Facebook's signatures.
//!
//! Source: "Getting Started" of Graph API webhooks: Facebook signs the payload in its escaped form,
//! with non-ASCII characters as `\u` and four lower-case digits. Captures show that `/`, `<`, `%`
//! and `@` are escaped as well.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha1::Sha1;
use sha2::Sha256;

/// Returns a JSON value as text with Facebook's escapes.
pub fn escaped_json(json: &Value) -> String {
    let text = json.to_string();
    let mut out = String::with_capacity(text.len());
    // In JSON text, these characters occur only inside strings, so the text need not be parsed.
    for c in text.chars() {
        match c {
            '/' => out.push_str("\\/"),
            '<' => out.push_str("\\u003C"),
            '%' => out.push_str("\\u0025"),
            '@' => out.push_str("\\u0040"),
            c if c.is_ascii() => out.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out
}

/// Returns the HMAC-SHA256 of `text` in hexadecimal digits, the form of `appsecret_proof`.
pub fn hmac_hex(key: &str, text: &[u8]) -> String {
    hex(&hmac_sha256(key, text))
}

/// Returns the value of the header `X-Hub-Signature-256`.
pub fn signature_256(app_secret: &str, body: &[u8]) -> String {
    format!("sha256={}", hmac_hex(app_secret, body))
}

/// Returns the value of the legacy header `X-Hub-Signature`.
pub fn signature_sha1(app_secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha1>::new_from_slice(app_secret.as_bytes());
    let mac = mac.map(|mac| mac.chain_update(body).finalize().into_bytes().to_vec());
    format!("sha1={}", hex(&mac.unwrap_or_default()))
}

/// Returns the HMAC-SHA256 of `bytes`.
pub(crate) fn hmac_sha256(key: &str, bytes: &[u8]) -> Vec<u8> {
    // HMAC accepts a key of any length, so the default is never used.
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes());
    mac.map(|mac| mac.chain_update(bytes).finalize().into_bytes().to_vec())
        .unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn non_ascii_and_four_ascii_characters_are_escaped() {
        let text = escaped_json(&json!({"v": "äöå 😢 a/b <c> 5% x@y \"q\" \\ \n"}));
        assert_eq!(
            text,
            r#"{"v":"\u00e4\u00f6\u00e5 \ud83d\ude22 a\/b \u003Cc> 5\u0025 x\u0040y \"q\" \\ \n"}"#
        );
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap()["v"],
            "äöå 😢 a/b <c> 5% x@y \"q\" \\ \n"
        );
    }

    #[test]
    fn signatures_match_another_implementation() {
        let body = br#"{"object":"page","entry":[{"id":"1170558113","time":1750000003,"changes":[{"field":"website"}]}]}"#;
        let secret = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            signature_256(secret, body),
            "sha256=ac36e00c91435c0b9d9936d49c863a7b0dab4257d98f69f5a1df5f568f788023"
        );
        assert_eq!(
            signature_sha1(secret, body),
            "sha1=e914a83e0a784a7f2f7295cac68fde42285a2157"
        );
    }
}
