//! Custody of tokens: sealed to a public key with HPKE (RFC 9180, base mode, X25519, HKDF-SHA256,
//! ChaCha20-Poly1305), the name of the record as associated data.
//!
//! Invariants: a [`Token`] has no text form, no encoding and no way out of this crate but a request
//! to Graph; who has only a [`PublicKey`] can seal and not open; a sealed token moved to another
//! record does not open. Must not: log, print or store a token or a private key.

use std::fmt;
use std::path::{Path, PathBuf};

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

/// What both sides say about the purpose.
const INFO: &[u8] = b"pagesync token v1";
const PUBLIC: &str = "pagesync-public-";
const PRIVATE: &str = "pagesync-private-";
const ENCAPPED_BYTES: usize = 32;

/// A token of Facebook. It goes into a request to Graph and nowhere else: it cannot be printed,
///
/// ```compile_fail
/// let token = common::custody::Token::new("EAAB".to_owned());
/// println!("{token}");
/// ```
///
/// nor encoded.
///
/// ```compile_fail
/// let token = common::custody::Token::new("EAAB".to_owned());
/// serde_json::to_string(&token);
/// ```
#[derive(Clone)]
pub struct Token(SecretString);

impl Token {
    /// Takes a text as a token.
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// For the header of a request.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A sealed token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedToken {
    /// Which key it is sealed to.
    pub key: String,
    /// Encapsulated key and ciphertext.
    body: String,
}

/// Why a token could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealingError {
    /// Nobody here has the key it was sealed to.
    #[error("a token is sealed to key {0}, which PAGESYNC_TOKEN_PRIVATE_KEYS does not hold")]
    UnknownKey(String),
    /// It is damaged, or belongs to another record.
    #[error("a sealed token does not open: it is damaged or was moved")]
    Damaged,
    /// A text that is not a key.
    #[error("not a key: {0}")]
    InvalidKey(&'static str),
    /// The key file.
    #[error("the key file {path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Seals. Its text begins with `pagesync-public-`.
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
    fn of(key: HpkePublic) -> Self {
        let digest = Sha256::digest(key.to_bytes());
        let id = hex(&digest[..6]);
        Self { id, key }
    }

    /// Takes a text as a public key.
    pub fn parse(text: &str) -> Result<Self, SealingError> {
        let wrong = "a public key begins with pagesync-public-";
        let bytes = decode(text, PUBLIC).ok_or(SealingError::InvalidKey(wrong))?;
        let key = HpkePublic::from_bytes(&bytes);
        key.map(Self::of)
            .map_err(|_| SealingError::InvalidKey("the key is not of its length"))
    }

    /// Its text.
    pub fn text(&self) -> String {
        format!("{PUBLIC}{}", BASE64.encode(self.key.to_bytes()))
    }

    /// Names it: the beginning of its hash.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals a token for the record `name`.
    pub fn seal(&self, token: &Token, name: &str) -> Result<SealedToken, SealingError> {
        let sealed = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Suite>(
            &OpModeS::Base,
            &self.key,
            INFO,
            token.expose().as_bytes(),
            name.as_bytes(),
        );
        let (encapped, ciphertext) = sealed.map_err(|_| SealingError::Damaged)?;
        let mut body = encapped.to_bytes().to_vec();
        body.extend(ciphertext);
        Ok(SealedToken {
            key: self.id.clone(),
            body: BASE64.encode(body),
        })
    }
}

/// Opens. Its text begins with `pagesync-private-`.
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
    /// A new one.
    pub fn generate() -> Self {
        let (key, public) = Suite::gen_keypair();
        let public = PublicKey::of(public);
        Self { public, key }
    }

    /// Takes a text as a private key.
    pub fn parse(text: &str) -> Result<Self, SealingError> {
        let wrong = "a private key begins with pagesync-private-";
        let bytes = decode(text, PRIVATE).ok_or(SealingError::InvalidKey(wrong))?;
        let key = HpkePrivate::from_bytes(&bytes);
        let key = key.map_err(|_| SealingError::InvalidKey("the key is not of its length"))?;
        let public = PublicKey::of(Suite::sk_to_pk(&key));
        Ok(Self { public, key })
    }

    /// Its text, for the file or variable it is kept in.
    pub fn text(&self) -> SecretString {
        SecretString::from(format!("{PRIVATE}{}", BASE64.encode(self.key.to_bytes())))
    }

    /// The key that seals for it.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    fn open(&self, sealed: &SealedToken, name: &str) -> Option<Token> {
        let body = BASE64.decode(&sealed.body).ok()?;
        let (encapped, ciphertext) = body.split_at_checked(ENCAPPED_BYTES)?;
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Suite>(
            &OpModeR::Base,
            &self.key,
            &Encapped::from_bytes(encapped).ok()?,
            INFO,
            ciphertext,
            name.as_bytes(),
        );
        String::from_utf8(opened.ok()?).ok().map(Token::new)
    }
}

fn decode(text: &str, prefix: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.trim().strip_prefix(prefix)?).ok()
}

/// Whether a text is a private key: who must not have one refuses it.
pub fn contains_private_key(text: &str) -> bool {
    text.contains(PRIVATE)
}

/// The keys of a worker: the first seals, all open.
#[derive(Debug, Clone)]
pub struct PrivateKeys(Vec<PrivateKey>);

impl PrivateKeys {
    /// Takes a list of private keys, separated by commas, spaces or lines, the current one first.
    pub fn parse(text: &str) -> Result<Self, SealingError> {
        let separator = |c: char| c == ',' || c.is_whitespace();
        let texts = text.split(separator).filter(|text| !text.is_empty());
        let keys: Vec<PrivateKey> = texts.map(PrivateKey::parse).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(SealingError::InvalidKey("there is none"));
        }
        Ok(Self(keys))
    }

    /// The key that seals now.
    pub fn current(&self) -> &PublicKey {
        self.0[0].public()
    }

    /// Opens what was sealed for the record `name`.
    pub fn open(&self, sealed: &SealedToken, name: &str) -> Result<Token, SealingError> {
        let key = self.0.iter().find(|key| key.public.id == sealed.key);
        let key = key.ok_or_else(|| SealingError::UnknownKey(sealed.key.clone()))?;
        key.open(sealed, name).ok_or(SealingError::Damaged)
    }

    /// Whether one of them opens what was sealed to the key with this id.
    pub fn contains(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.public.id == id)
    }

    /// The list with a new key in front.
    pub fn with_new_key(&self) -> Self {
        let mut keys = vec![PrivateKey::generate()];
        keys.extend(self.0.iter().cloned());
        Self(keys)
    }

    /// The list without all but the current key.
    pub fn only_current(&self) -> Self {
        Self(self.0[..1].to_vec())
    }

    /// The text [`Self::parse`] takes.
    fn text(&self) -> SecretString {
        let lines = self.0.iter().fold(String::new(), |mut lines, key| {
            lines.push_str(key.text().expose_secret());
            lines.push('\n');
            lines
        });
        SecretString::from(lines)
    }
}

/// Where a worker finds its keys.
#[derive(Debug, Clone)]
pub enum Keyring {
    /// Given by the configuration.
    Configured(PrivateKeys),
    /// In a file of the embedded backend, read again at each use: `pagesync keys rotate` changes it
    /// while we run.
    File(PathBuf),
}

/// The key file of the embedded backend, beside its database.
pub const KEY_FILE: &str = "token.keys";

impl Keyring {
    /// The keys as they are now.
    pub fn keys(&self) -> Result<PrivateKeys, SealingError> {
        match self {
            Self::Configured(keys) => Ok(keys.clone()),
            Self::File(path) => read_file(path),
        }
    }
}

/// Who may seal and need not be able to open.
#[derive(Debug, Clone)]
pub enum Sealer {
    /// A public key given by the configuration.
    PublicKey(PublicKey),
    /// The ring of the process we share with a worker.
    Keyring(Keyring),
}

impl Sealer {
    /// Seals a token for the record `name`.
    pub fn seal(&self, token: &Token, name: &str) -> Result<SealedToken, SealingError> {
        match self {
            Self::PublicKey(key) => key.seal(token, name),
            Self::Keyring(ring) => ring.keys()?.current().seal(token, name),
        }
    }
}

/// The key file of the embedded backend, made on the first call, mode 0600.
pub fn open_key_file(data_dir: &Path) -> Result<Keyring, SealingError> {
    let path = data_dir.join(KEY_FILE);
    if !path.exists() {
        write_file(&path, &PrivateKeys(vec![PrivateKey::generate()]))?;
    }
    read_file(&path)?;
    Ok(Keyring::File(path))
}

fn read_file(path: &Path) -> Result<PrivateKeys, SealingError> {
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |why: String| SealingError::File {
        path: path.to_owned(),
        reason: why,
    };
    let about = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if about.permissions().mode() & 0o077 != 0 {
        return Err(failed("others may read it: chmod 600".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    PrivateKeys::parse(&text).map_err(|error| {
        failed(format!(
            "{error}; put back a copy, or move it away and let people log in again"
        ))
    })
}

/// Writes the key file so that a crash leaves the old or the new one.
pub fn write_file(path: &Path, keys: &PrivateKeys) -> Result<(), SealingError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let new = path.with_extension("keys.new");
        let _ = std::fs::remove_file(&new);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(keys.text().expose_secret().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error: std::io::Error| SealingError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// So many random bytes from the operating system, as URL-safe text.
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
    fn a_token_opens_with_its_key_in_its_record_and_nowhere_else() {
        let (keys, others) = (keys(), keys());
        let token = Token::new("EAAB+/=&?% ü".to_owned());
        let sealed = keys.current().seal(&token, "token:user.7").unwrap();
        assert_eq!(
            keys.open(&sealed, "token:user.7").unwrap().expose(),
            token.expose()
        );
        let moved = keys.open(&sealed, "token:user.8").unwrap_err();
        assert_eq!(moved, SealingError::Damaged);
        let no_key = others.open(&sealed, "token:user.7").unwrap_err();
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
        fn any_token_for_any_record_comes_back_and_only_there(text in ".{0,300}", name in ".{0,60}", other in ".{0,60}") {
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
    fn the_same_token_never_looks_the_same() {
        let keys = keys();
        let token = Token::new("EAAB".to_owned());
        let seal = || keys.current().seal(&token, "t").unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn keys_survive_their_text_and_are_told_apart() {
        let key = PrivateKey::generate();
        let text = key.text();
        let again = PrivateKey::parse(text.expose_secret()).unwrap();
        assert_eq!(again.public().text(), key.public().text());
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
    fn the_key_file_is_made_once_private_and_refused_when_it_is_not() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let id = |ring: &Keyring| ring.keys().unwrap().current().id().to_owned();
        let first = id(&open_key_file(directory.path()).unwrap());
        assert_eq!(id(&open_key_file(directory.path()).unwrap()), first);
        let path = directory.path().join("token.keys");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(open_key_file(directory.path()).is_err());
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
