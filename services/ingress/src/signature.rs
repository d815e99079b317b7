//! Verifies that Facebook sent a body. The signature is an HMAC of the raw bytes with the app
//! secret.
//!
//! Invariant: a [`SignedBody`] exists only if its signature was verified; it has no other
//! constructor. Signatures are compared in constant time, and a body is parsed only afterwards.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha1::Sha1;
use sha2::Sha256;

/// The header that Facebook documents: `sha256=` and 64 hexadecimal digits.
const SHA256_HEADER: HeaderName = HeaderName::from_static("x-hub-signature-256");
/// The legacy header: `sha1=` and 40 hexadecimal digits.
const SHA1_HEADER: HeaderName = HeaderName::from_static("x-hub-signature");

/// A body whose signature was verified.
#[derive(Debug)]
pub struct SignedBody(Bytes);

impl SignedBody {
    /// Returns the signed bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The signature of a request, not verified yet.
#[derive(Debug)]
pub enum Signature {
    /// HMAC-SHA256.
    Sha256([u8; 32]),
    /// HMAC-SHA1.
    Sha1([u8; 20]),
}

impl Signature {
    /// Returns the signature in the headers. Returns `None` if the header is missing, occurs more
    /// than once, or does not have exactly the documented form.
    ///
    /// The legacy header is used only if `allow_sha1` is set and the SHA-256 header is absent, so
    /// that a request with an invalid SHA-256 signature is never accepted for its SHA-1 signature.
    pub fn from_headers(headers: &HeaderMap, allow_sha1: bool) -> Option<Self> {
        if headers.contains_key(&SHA256_HEADER) {
            return parse_header(headers, &SHA256_HEADER, "sha256=").map(Self::Sha256);
        }
        allow_sha1
            .then(|| parse_header(headers, &SHA1_HEADER, "sha1=").map(Self::Sha1))
            .flatten()
    }

    /// Returns `body` as a signed body, or `None` if no secret gives this signature. During a
    /// rotation, `secrets` also contains the previous secret.
    pub fn verify(&self, secrets: &[SecretString], body: Bytes) -> Option<SignedBody> {
        let is_valid = secrets.iter().any(|secret| {
            let key = secret.expose_secret().as_bytes();
            match self {
                Self::Sha256(signature) => Hmac::<Sha256>::new_from_slice(key)
                    .is_ok_and(|mac| mac.chain_update(&body).verify_slice(signature).is_ok()),
                Self::Sha1(signature) => Hmac::<Sha1>::new_from_slice(key)
                    .is_ok_and(|mac| mac.chain_update(&body).verify_slice(signature).is_ok()),
            }
        });
        is_valid.then_some(SignedBody(body))
    }
}

/// Returns the `N` bytes that the header `name` contains as `prefix` and `2 * N` hexadecimal
/// digits. Returns `None` if the header is missing, occurs more than once, or has another form.
fn parse_header<const N: usize>(
    headers: &HeaderMap,
    name: &HeaderName,
    prefix: &str,
) -> Option<[u8; N]> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let digits = value.to_str().ok()?.strip_prefix(prefix)?.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn is_accepted(headers: &[(&str, &str)], allow_sha1: bool, body: &'static str) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let secrets = [
            SecretString::from("another-app-secret"),
            SecretString::from(SECRET),
        ];
        Signature::from_headers(&map, allow_sha1).is_some_and(|signature| {
            signature
                .verify(&secrets, Bytes::from_static(body.as_bytes()))
                .is_some()
        })
    }

    /// Bodies with the signatures that Facebook would send, computed by another implementation.
    const VECTORS: [(&str, &str, &str); 3] = [
        (
            r#"{"object":"page","entry":[{"id":"1170558113","time":1750000001,"changes":[{"field":"name","value":"Caf\u00e9 M\u00fcller \ud83d\ude22"}]}]}"#,
            "sha256=07c8d02b764168a254de50d4d9a5ec605c4722e906d10209c0a7ce4247197cb5",
            "sha1=5bae35c86512e4ef0e0fa4cbb93acb3baac46a5b",
        ),
        (
            r#"{"object":"page","entry":[{"id":"1170558113","time":1750000002,"changes":[{"field":"mission","value":"a\/b \u003Cc> 5\u0025 x\u0040y"}]}]}"#,
            "sha256=766d334fe594efb313492c365d31528ab78d50cc975c994715c558cbda61b779",
            "sha1=07a03bb61981383a0b5d28ef668f404692a9abef",
        ),
        (
            r#"{"object":"page","entry":[{"id":"1170558113","time":1750000004,"changed_fields":["name","category"]}]}"#,
            "sha256=f5c39032ebec0d25fccf0d5745e7b083481b4f4d432af9b63c4232406fc42f91",
            "sha1=2440d5f17f0147430f23772926e3f5f3b2951733",
        ),
    ];

    #[test]
    fn signatures_are_verified_over_the_raw_bytes() {
        for (body, sha256, sha1) in VECTORS {
            assert!(is_accepted(
                &[("x-hub-signature-256", sha256), ("x-hub-signature", sha1)],
                false,
                body
            ));
            assert!(is_accepted(&[("x-hub-signature", sha1)], true, body));
            assert!(
                !is_accepted(&[("x-hub-signature", sha1)], false, body),
                "SHA-1 alone is not allowed"
            );
        }
        let decoded = r#"{"object":"page","entry":[{"id":"1170558113","time":1750000001,"changes":[{"field":"name","value":"Café Müller 😢"}]}]}"#;
        assert!(!is_accepted(
            &[("x-hub-signature-256", VECTORS[0].1)],
            false,
            decoded
        ));
    }

    #[test]
    fn a_correct_sha1_signature_does_not_replace_a_wrong_sha256_signature() {
        let (body, _, sha1) = VECTORS[0];
        let wrong = format!("sha256={}", "0".repeat(64));
        assert!(!is_accepted(
            &[("x-hub-signature-256", &wrong), ("x-hub-signature", sha1)],
            true,
            body
        ));
        assert!(!is_accepted(
            &[
                ("x-hub-signature-256", "sha256="),
                ("x-hub-signature", sha1)
            ],
            true,
            body
        ));
    }

    #[test]
    fn the_form_of_the_header_is_exact_except_for_the_case_of_the_digits() {
        let (body, correct, _) = VECTORS[0];
        let digits = &correct["sha256=".len()..];
        assert!(is_accepted(
            &[(
                "x-hub-signature-256",
                &format!("sha256={}", digits.to_uppercase())
            )],
            false,
            body
        ));
        for wrong in [
            format!("SHA256={digits}"),
            digits.to_owned(),
            format!("sha256={}", &digits[2..]),
            format!("{correct}00"),
            format!("sha256=zz{}", &digits[2..]),
        ] {
            assert!(
                !is_accepted(&[("x-hub-signature-256", &wrong)], false, body),
                "{wrong}"
            );
        }
        assert!(!is_accepted(
            &[
                ("x-hub-signature-256", correct),
                ("x-hub-signature-256", correct)
            ],
            false,
            body
        ));
    }
}
