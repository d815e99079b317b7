//! Seals tokens to a public key with HPKE (RFC 9180, base mode, X25519, HKDF-SHA256,
//! ChaCha20-Poly1305), with the name of the record as associated data.
//!
//! Invariants: a [`Token`] cannot be printed or encoded, and leaves the process only in a request to
//! Graph and through [`Token::reveal`], which only the token listener of the worker calls; a process that has only a [`PublicKey`] can seal tokens but not open them; a sealed token
//! that was moved to another record does not open. This module never logs, prints or stores an
//! unsealed token, and writes private keys only to the key file.

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use model::hex::hex;

type Suite = X25519HkdfSha256;
type HpkePublic = <Suite as hpke::Kem>::PublicKey;
type HpkePrivate = <Suite as hpke::Kem>::PrivateKey;
type Encapped = <Suite as hpke::Kem>::EncappedKey;

/// The HPKE parameter `info`, which must be the same for sealing and opening.
const INFO: &[u8] = b"pagesync token v1";
const PUBLIC_PREFIX: &str = "pagesync-public-";
const PRIVATE_PREFIX: &str = "pagesync-private-";
const ENCAPPED_BYTES: usize = 32;

/// A token of Facebook. It can only be put into a request to Graph. It cannot be printed:
///
/// ```compile_fail
/// let token = common::sealing::Token::new("EAAB".to_owned());
/// println!("{token}");
/// ```
///
/// It cannot be encoded:
///
/// ```compile_fail
/// let token = common::sealing::Token::new("EAAB".to_owned());
/// serde_json::to_string(&token);
/// ```
#[derive(Clone)]
pub struct Token(SecretString);

impl Token {
    /// Returns the token with this text.
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// Returns the text of the token for the answer to a program with a key of the scope `token`. This is
    /// the only way in which a token leaves the process, except in a request to Graph.
    pub fn reveal(&self) -> &str {
        self.expose()
    }

    /// Returns the text of the token, for sealing and for requests to Graph.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A sealed token in the form that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedToken {
    /// The id of the key that it is sealed to.
    pub key_id: String,
    /// The encapsulated key and the ciphertext, in URL-safe Base64.
    body: String,
}

/// The reason why a token could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealingError {
    /// The token is sealed to the key with this id, which is not one of the private keys.
    #[error(
        "a token is sealed to key {0}, which this process does not have: add it to PAGESYNC_TOKEN_PRIVATE_KEYS or to the key file"
    )]
    UnknownKey(String),
    /// The sealed token is damaged or belongs to another record. A failure to seal is also reported
    /// as this error.
    #[error("a sealed token cannot be opened: it is damaged or belongs to another record")]
    Damaged,
    /// The text is not a key.
    #[error("not a key: {0}")]
    InvalidKey(&'static str),
    /// The key file cannot be read or written.
    #[error("the key file {path} cannot be used: {reason}")]
    File {
        /// The path of the key file.
        path: PathBuf,
        /// The problem of the key file.
        reason: String,
    },
}

/// A key that seals tokens. Its text begins with `pagesync-public-`.
#[derive(Clone)]
pub struct PublicKey {
    id: String,
    key: HpkePublic,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

impl PublicKey {
    fn new(key: HpkePublic) -> Self {
        let digest = Sha256::digest(key.to_bytes());
        let id = hex(&digest[..6]);
        Self { id, key }
    }

    /// Parses the text of a public key.
    pub fn parse(text: &str) -> Result<Self, SealingError> {
        let problem = "a public key begins with pagesync-public-";
        let bytes = decode(text, PUBLIC_PREFIX).ok_or(SealingError::InvalidKey(problem))?;
        let key = HpkePublic::from_bytes(&bytes);
        key.map(Self::new)
            .map_err(|_| SealingError::InvalidKey("it has the wrong length"))
    }

    /// Returns the text of the key.
    pub fn text(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", BASE64.encode(self.key.to_bytes()))
    }

    /// Returns the id of the key: the first 12 hexadecimal digits of its SHA-256 hash.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals a token for the record `name`.
    pub fn seal(&self, token: &Token, name: &str) -> Result<SealedToken, SealingError> {
        let body = self.seal_bytes(INFO, token.expose().as_bytes(), name.as_bytes())?;
        Ok(SealedToken {
            key_id: self.id.clone(),
            body,
        })
    }

    /// Seals bytes with the HPKE parameters `info` and `aad`. Returns the encapsulated key and the
    /// ciphertext, in URL-safe Base64.
    pub(crate) fn seal_bytes(
        &self,
        info: &[u8],
        bytes: &[u8],
        aad: &[u8],
    ) -> Result<String, SealingError> {
        let sealed = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Suite>(
            &OpModeS::Base,
            &self.key,
            info,
            bytes,
            aad,
        );
        let (encapped, ciphertext) = sealed.map_err(|_| SealingError::Damaged)?;
        let mut body = encapped.to_bytes().to_vec();
        body.extend(ciphertext);
        Ok(BASE64.encode(body))
    }
}

/// A key that opens tokens. Its text begins with `pagesync-private-`.
#[derive(Clone)]
pub struct PrivateKey {
    public: PublicKey,
    key: HpkePrivate,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public.id)
    }
}

impl PrivateKey {
    /// Returns a new random key.
    pub fn generate() -> Self {
        let (key, public) = Suite::gen_keypair();
        let public = PublicKey::new(public);
        Self { public, key }
    }

    /// Parses the text of a private key.
    pub fn parse(text: &str) -> Result<Self, SealingError> {
        let problem = "a private key begins with pagesync-private-";
        let bytes = decode(text, PRIVATE_PREFIX).ok_or(SealingError::InvalidKey(problem))?;
        let key = HpkePrivate::from_bytes(&bytes);
        let key = key.map_err(|_| SealingError::InvalidKey("it has the wrong length"))?;
        let public = PublicKey::new(Suite::sk_to_pk(&key));
        Ok(Self { public, key })
    }

    /// Returns the text of the key, for the file or the variable in which it is stored.
    pub fn text(&self) -> SecretString {
        let encoded = BASE64.encode(self.key.to_bytes());
        SecretString::from(format!("{PRIVATE_PREFIX}{encoded}"))
    }

    /// Returns the public key of this private key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Opens a token that was sealed for the record `name`. Returns `None` if it is damaged.
    fn open(&self, sealed: &SealedToken, name: &str) -> Option<Token> {
        let opened = self.open_bytes(INFO, &sealed.body, name.as_bytes())?;
        String::from_utf8(opened).ok().map(Token::new)
    }

    /// Opens bytes that [`PublicKey::seal_bytes`] sealed. Returns `None` if they are damaged.
    fn open_bytes(&self, info: &[u8], sealed: &str, aad: &[u8]) -> Option<Vec<u8>> {
        let body = BASE64.decode(sealed).ok()?;
        let (encapped, ciphertext) = body.split_at_checked(ENCAPPED_BYTES)?;
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Suite>(
            &OpModeR::Base,
            &self.key,
            &Encapped::from_bytes(encapped).ok()?,
            info,
            ciphertext,
            aad,
        );
        opened.ok()
    }
}

fn decode(text: &str, prefix: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.trim().strip_prefix(prefix)?).ok()
}

/// Returns whether a text contains a private key, so that it can be refused where there must be
/// none.
pub fn contains_private_key(text: &str) -> bool {
    text.contains(PRIVATE_PREFIX)
}

/// The private keys of a worker. All of them open tokens. The first one is the current key, to
/// which new tokens are sealed.
#[derive(Debug, Clone)]
pub struct PrivateKeys(Vec<PrivateKey>);

impl PrivateKeys {
    /// Parses a list of private keys that are separated by commas or white space, the current key
    /// first. Fails if there is none.
    pub fn parse(text: &str) -> Result<Self, SealingError> {
        let separator = |c: char| c == ',' || c.is_whitespace();
        let texts = text.split(separator).filter(|text| !text.is_empty());
        let keys: Vec<PrivateKey> = texts.map(PrivateKey::parse).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(SealingError::InvalidKey("the list of keys is empty"));
        }
        Ok(Self(keys))
    }

    /// Returns the public key that seals new tokens.
    pub fn current(&self) -> &PublicKey {
        self.0[0].public()
    }

    /// Opens a token that was sealed for the record `name`.
    pub fn open(&self, sealed: &SealedToken, name: &str) -> Result<Token, SealingError> {
        let key = self.0.iter().find(|key| key.public.id == sealed.key_id);
        let key = key.ok_or_else(|| SealingError::UnknownKey(sealed.key_id.clone()))?;
        key.open(sealed, name).ok_or(SealingError::Damaged)
    }

    /// Opens bytes that [`PublicKey::seal_bytes`] sealed to the key with this id.
    pub(crate) fn open_bytes(
        &self,
        info: &[u8],
        key_id: &str,
        sealed: &str,
        aad: &[u8],
    ) -> Result<Vec<u8>, SealingError> {
        let key = self.0.iter().find(|key| key.public.id == key_id);
        let key = key.ok_or_else(|| SealingError::UnknownKey(key_id.to_owned()))?;
        key.open_bytes(info, sealed, aad)
            .ok_or(SealingError::Damaged)
    }

    /// Returns whether the list has the private key for the public key with this id.
    pub fn contains(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.public.id == id)
    }

    /// Returns a list of one new random key.
    pub(crate) fn generate() -> Self {
        Self(vec![PrivateKey::generate()])
    }

    /// Returns the list with a new random key as the current one.
    pub fn with_new_key(&self) -> Self {
        let mut keys = vec![PrivateKey::generate()];
        keys.extend(self.0.iter().cloned());
        Self(keys)
    }

    /// Returns a list of the current key alone.
    pub fn only_current(&self) -> Self {
        Self(self.0[..1].to_vec())
    }

    /// Returns the list as a text that [`Self::parse`] accepts.
    pub(crate) fn text(&self) -> SecretString {
        let lines = self.0.iter().fold(String::new(), |mut lines, key| {
            lines.push_str(key.text().expose_secret());
            lines.push('\n');
            lines
        });
        SecretString::from(lines)
    }
}

/// Returns `bytes` random bytes from the operating system, in URL-safe Base64.
pub fn random_text(bytes: usize) -> Result<String, getrandom::Error> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random)?;
    Ok(BASE64.encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> PrivateKeys {
        PrivateKeys(vec![PrivateKey::generate()])
    }

    #[test]
    fn a_token_opens_only_with_its_key_and_for_its_record() {
        let (keys, other_keys) = (keys(), keys());
        let token = Token::new("EAAB+/=&?% ü".to_owned());
        let sealed = keys.current().seal(&token, "token:user.7").unwrap();
        assert_eq!(
            keys.open(&sealed, "token:user.7").unwrap().expose(),
            token.expose()
        );
        let moved = keys.open(&sealed, "token:user.8").unwrap_err();
        assert_eq!(moved, SealingError::Damaged);
        let no_key = other_keys.open(&sealed, "token:user.7").unwrap_err();
        assert_eq!(
            no_key,
            SealingError::UnknownKey(keys.current().id().to_owned())
        );
        for i in 0..sealed.body.len() {
            let mut bytes = sealed.body.clone().into_bytes();
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            let body = String::from_utf8(bytes).unwrap();
            let damaged = SealedToken {
                body,
                ..sealed.clone()
            };
            assert!(keys.open(&damaged, "token:user.7").is_err(), "byte {i}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn every_token_opens_for_its_record_and_for_no_other(text in ".{0,300}", name in ".{0,60}", other in ".{0,60}") {
            let keys = keys();
            let sealed = keys.current().seal(&Token::new(text.clone()), &name).unwrap();
            let opened = keys.open(&sealed, &name).unwrap();
            proptest::prop_assert_eq!(opened.expose(), text);
            if name != other {
                proptest::prop_assert!(keys.open(&sealed, &other).is_err());
            }
        }
    }

    #[test]
    fn sealing_a_token_twice_gives_two_different_texts() {
        let keys = keys();
        let token = Token::new("EAAB".to_owned());
        let seal = || keys.current().seal(&token, "t").unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn keys_are_parsed_from_their_text_and_not_confused_with_each_other() {
        let key = PrivateKey::generate();
        let text = key.text();
        let parsed = PrivateKey::parse(text.expose_secret()).unwrap();
        assert_eq!(parsed.public().text(), key.public().text());
        assert_eq!(
            PublicKey::parse(&key.public().text()).unwrap().id(),
            key.public().id()
        );
        assert!(PublicKey::parse(text.expose_secret()).is_err());
        assert!(PrivateKey::parse(&key.public().text()).is_err());
        assert!(
            contains_private_key(text.expose_secret())
                && !contains_private_key(&key.public().text())
        );
        assert!(!format!("{key:?} {:?}", Token::new("secret".to_owned())).contains("secret"));
    }

    #[test]
    fn a_new_key_seals_and_the_old_one_still_opens() {
        let old = keys();
        let sealed = old
            .current()
            .seal(&Token::new("t".to_owned()), "r")
            .unwrap();
        let both = old.with_new_key();
        assert_ne!(both.current().id(), old.current().id());
        assert!(both.open(&sealed, "r").is_ok());
        assert!(both.only_current().open(&sealed, "r").is_err());
    }
}
