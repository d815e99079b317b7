//! The key with which tokens are sealed before they are stored.
//!
//! Invariant: a process that only seals needs no private key.

use std::path::Path;

use crate::key_file::{Keyring, open_key_file};
use crate::sealing::{PrivateKeys, PublicKey, SealedToken, SealingError, Token};

/// The key with which ingress seals tokens.
#[derive(Debug, Clone)]
pub enum Sealer {
    /// A public key from the configuration.
    PublicKey(PublicKey),
    /// The current key of a worker in the same process.
    Keyring(Keyring),
}

impl Sealer {
    /// Seals a token for the record `name`.
    pub fn seal(&self, token: &Token, name: &str) -> Result<SealedToken, SealingError> {
        self.public_key()?.seal(token, name)
    }

    /// Returns the public key with which data is sealed now. Fails if the key file cannot be used.
    pub fn public_key(&self) -> Result<PublicKey, SealingError> {
        match self {
            Self::PublicKey(key) => Ok(key.clone()),
            Self::Keyring(keyring) => Ok(keyring.keys()?.current().clone()),
        }
    }

    /// Returns the sealer of a configuration: the public key, or that of the private keys, or the key
    /// file in `data_dir`. Fails if the key file cannot be used.
    pub fn new(
        public: Option<&PublicKey>,
        private: Option<&PrivateKeys>,
        data_dir: &Path,
    ) -> Result<Self, SealingError> {
        match (public, private) {
            (Some(key), _) => Ok(Self::PublicKey(key.clone())),
            (None, Some(keys)) => Ok(Self::PublicKey(keys.current().clone())),
            (None, None) => open_key_file(data_dir).map(Self::Keyring),
        }
    }
}
