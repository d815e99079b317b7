//! The key with which tokens are sealed before they are stored.
//!
//! Invariant: a process that only seals needs no private key.

use std::path::Path;

use crate::sealing::{
    Keyring, PrivateKeys, PublicKey, SealedToken, SealingError, Token, open_key_file,
};

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
        match self {
            Self::PublicKey(key) => key.seal(token, name),
            Self::Keyring(keyring) => keyring.keys()?.current().seal(token, name),
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
