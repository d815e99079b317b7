//! Proof that Facebook sent a body: an HMAC with the app secret over the raw bytes.
//!
//! Invariant: a [`SignedBody`] exists only if a signature was right; there is no other constructor.
//! Comparison is in constant time. Nothing is parsed before it is proven.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha1::Sha1;
use sha2::Sha256;

/// The header Facebook documents: `sha256=` and 64 hexadecimal digits.
const SHA256: HeaderName = HeaderName::from_static("x-hub-signature-256");
/// The legacy header: `sha1=` and 40.
const SHA1: HeaderName = HeaderName::from_static("x-hub-signature");

/// A body whose signature was right.
#[derive(Debug)]
pub struct SignedBody(Bytes);

impl SignedBody {
    /// The bytes as they were signed.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The signature of a request, not yet compared.
#[derive(Debug)]
pub enum Claimed {
    /// HMAC-SHA256.
    Sha256([u8; 32]),
    /// HMAC-SHA1.
    Sha1([u8; 20]),
}

impl Claimed {
    /// The signature in the headers: exactly one header of exactly the documented form, else `None`.
    /// The legacy one counts only if it is allowed and the other is absent, so that nobody can
    /// downgrade a request by spoiling its better signature.
    pub fn in_headers(headers: &HeaderMap, allow_sha1: bool) -> Option<Self> {
        if headers.contains_key(&SHA256) {
            return digits(headers, &SHA256, "sha256=").map(Self::Sha256);
        }
        allow_sha1
            .then(|| digits(headers, &SHA1, "sha1=").map(Self::Sha1))
            .flatten()
    }

    /// Compares with each secret; the previous one is accepted during a rotation.
    pub fn prove(&self, secrets: &[SecretString], body: Bytes) -> Option<SignedBody> {
        let right = secrets.iter().any(|secret| {
            let key = secret.expose_secret().as_bytes();
            match self {
                Self::Sha256(claimed) => Hmac::<Sha256>::new_from_slice(key)
                    .is_ok_and(|mac| mac.chain_update(&body).verify_slice(claimed).is_ok()),
                Self::Sha1(claimed) => Hmac::<Sha1>::new_from_slice(key)
                    .is_ok_and(|mac| mac.chain_update(&body).verify_slice(claimed).is_ok()),
            }
        });
        right.then_some(SignedBody(body))
    }
}

fn digits<const N: usize>(headers: &HeaderMap, name: &HeaderName, prefix: &str) -> Option<[u8; N]> {
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

    fn proven(headers: &[(&str, &str)], allow_sha1: bool, body: &'static str) -> bool {
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
        Claimed::in_headers(&map, allow_sha1).is_some_and(|claimed| {
            claimed
                .prove(&secrets, Bytes::from_static(body.as_bytes()))
                .is_some()
        })
    }

    /// Bodies with the signatures that Facebook would send, computed with another implementation.
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
    fn the_vectors_verify_over_the_raw_bytes() {
        for (body, sha256, sha1) in VECTORS {
            assert!(proven(
                &[("x-hub-signature-256", sha256), ("x-hub-signature", sha1)],
                false,
                body
            ));
            assert!(proven(&[("x-hub-signature", sha1)], true, body));
            assert!(
                !proven(&[("x-hub-signature", sha1)], false, body),
                "legacy alone, not allowed"
            );
        }
        let decoded = r#"{"object":"page","entry":[{"id":"1170558113","time":1750000001,"changes":[{"field":"name","value":"Café Müller 😢"}]}]}"#;
        assert!(!proven(
            &[("x-hub-signature-256", VECTORS[0].1)],
            false,
            decoded
        ));
    }

    #[test]
    fn a_wrong_new_signature_cannot_be_saved_by_a_right_old_one() {
        let (body, _, sha1) = VECTORS[0];
        let wrong = format!("sha256={}", "0".repeat(64));
        assert!(!proven(
            &[("x-hub-signature-256", &wrong), ("x-hub-signature", sha1)],
            true,
            body
        ));
        assert!(!proven(
            &[
                ("x-hub-signature-256", "sha256="),
                ("x-hub-signature", sha1)
            ],
            true,
            body
        ));
    }

    #[test]
    fn the_form_is_exact_but_for_the_case_of_the_digits() {
        let (body, right, _) = VECTORS[0];
        let digits = &right["sha256=".len()..];
        assert!(proven(
            &[(
                "x-hub-signature-256",
                &format!("sha256={}", digits.to_uppercase())
            )],
            false,
            body
        ));
        for bad in [
            format!("SHA256={digits}"),
            digits.to_owned(),
            format!("sha256={}", &digits[2..]),
            format!("{right}00"),
            format!("sha256=zz{}", &digits[2..]),
        ] {
            assert!(
                !proven(&[("x-hub-signature-256", &bad)], false, body),
                "{bad}"
            );
        }
        assert!(!proven(
            &[
                ("x-hub-signature-256", right),
                ("x-hub-signature-256", right)
            ],
            false,
            body
        ));
    }
}
