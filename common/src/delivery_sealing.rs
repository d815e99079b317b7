//! Seals the deliveries that are forwarded to another program.
//!
//! A process that receives deliveries makes a data key every hour. It seals the data key once to the
//! public key of the worker, with HPKE, and each delivery with the data key, with ChaCha20-Poly1305. The
//! worker opens a data key once for many deliveries.
//!
//! Invariants: a nonce is used once under a data key, because it is the number of the delivery. A data key
//! is never stored or printed in the clear. What a delivery has in the clear is authenticated with it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use model::forward::{Envelope, ForwardedDelivery, SealedKey};
use model::id::PageId;
use model::time::HostTime;

use crate::key_file::Keyring;
use crate::sealer::Sealer;
use crate::sealing::SealingError;

/// The HPKE parameter `info` of data keys.
const INFO: &[u8] = b"pagesync forward v1";
/// How long a data key seals new deliveries.
const KEY_LIFETIME: Duration = Duration::from_secs(3600);
/// How often it is checked whether the public key of the worker is another one.
const KEY_CHECK: Duration = Duration::from_secs(5);
/// How many opened data keys a worker remembers. Then it forgets all of them.
const MAX_OPENED: usize = 256;

/// A data key that seals deliveries.
struct DataKey {
    cipher: ChaCha20Poly1305,
    sealed: SealedKey,
    made_at: Instant,
    checked_at: Instant,
    /// The number of the next delivery.
    next: u64,
}

/// Seals deliveries in the process that receives them.
pub struct DeliverySealer {
    sealer: Sealer,
    current: Mutex<Option<DataKey>>,
}

impl fmt::Debug for DeliverySealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliverySealer").finish_non_exhaustive()
    }
}

impl DeliverySealer {
    /// Returns a sealer for the worker with the key of `sealer`.
    pub fn new(sealer: Sealer) -> Self {
        Self {
            sealer,
            current: Mutex::default(),
        }
    }

    /// Seals a delivery. Fails if the key file cannot be used, or if the operating system gives no random
    /// bytes.
    pub fn seal(
        &self,
        headers: &[(&str, &str)],
        body: &[u8],
        pages: Vec<PageId>,
        received_at: HostTime,
    ) -> Result<ForwardedDelivery, SealingError> {
        let (cipher, key, number) = self.next_number()?;
        let aad = ForwardedDelivery::associated_data(received_at, &pages);
        let bytes = Envelope::encode(headers, body);
        let payload = Payload {
            msg: &bytes,
            aad: &aad,
        };
        let sealed = cipher
            .encrypt(&nonce(number), payload)
            .map_err(|_| SealingError::Damaged)?;
        Ok(ForwardedDelivery {
            received_at,
            replayed_at: None,
            pages,
            key,
            number,
            sealed: BASE64.encode(sealed),
        })
    }

    /// Returns the present data key and the next number under it.
    fn next_number(&self) -> Result<(ChaCha20Poly1305, SealedKey, u64), SealingError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let is_usable = |key: &DataKey| key.made_at.elapsed() < KEY_LIFETIME;
        let mut key = match current.take().filter(is_usable) {
            Some(key) if key.checked_at.elapsed() < KEY_CHECK => key,
            Some(key) if key.sealed.key_id == self.sealer.public_key()?.id() => DataKey {
                checked_at: Instant::now(),
                ..key
            },
            _ => self.new_key()?,
        };
        let number = key.next;
        key.next += 1;
        let taken = (key.cipher.clone(), key.sealed.clone(), number);
        *current = Some(key);
        Ok(taken)
    }

    fn new_key(&self) -> Result<DataKey, SealingError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| SealingError::Damaged)?;
        let public = self.sealer.public_key()?;
        Ok(DataKey {
            cipher: ChaCha20Poly1305::new(&Key::from(bytes)),
            sealed: SealedKey {
                key_id: public.id().to_owned(),
                sealed: public.seal_bytes(INFO, &bytes, b"")?,
            },
            made_at: Instant::now(),
            checked_at: Instant::now(),
            next: 0,
        })
    }
}

/// Opens deliveries in the worker.
pub struct DeliveryOpener {
    keyring: Keyring,
    opened: Mutex<HashMap<SealedKey, ChaCha20Poly1305>>,
}

impl fmt::Debug for DeliveryOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryOpener").finish_non_exhaustive()
    }
}

impl DeliveryOpener {
    /// Returns an opener with the private keys of a worker.
    pub fn new(keyring: Keyring) -> Self {
        Self {
            keyring,
            opened: Mutex::default(),
        }
    }

    /// Opens a delivery. Fails with [`SealingError::UnknownKey`] if it is sealed to a key that this
    /// process does not have, and with [`SealingError::Damaged`] if it, its time or its Pages were changed.
    pub fn open(&self, delivery: &ForwardedDelivery) -> Result<Envelope, SealingError> {
        let cipher = self.data_key(&delivery.key)?;
        let sealed = BASE64.decode(&delivery.sealed);
        let sealed = sealed.map_err(|_| SealingError::Damaged)?;
        let aad = ForwardedDelivery::associated_data(delivery.received_at, &delivery.pages);
        let payload = Payload {
            msg: &sealed,
            aad: &aad,
        };
        let opened = cipher.decrypt(&nonce(delivery.number), payload);
        let opened = opened.map_err(|_| SealingError::Damaged)?;
        Envelope::decode(&opened).ok_or(SealingError::Damaged)
    }

    fn data_key(&self, key: &SealedKey) -> Result<ChaCha20Poly1305, SealingError> {
        let opened = || self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cipher) = opened().get(key) {
            return Ok(cipher.clone());
        }
        let keys = self.keyring.keys()?;
        let bytes = keys.open_bytes(INFO, &key.key_id, &key.sealed, b"")?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| SealingError::Damaged)?;
        let cipher = ChaCha20Poly1305::new(&Key::from(bytes));
        let mut known = opened();
        if known.len() >= MAX_OPENED {
            known.clear();
        }
        known.insert(key.clone(), cipher.clone());
        Ok(cipher)
    }
}

/// Returns the nonce of the delivery with this number.
fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealing::{PrivateKey, PrivateKeys};
    use secrecy::ExposeSecret as _;

    fn keys() -> PrivateKeys {
        PrivateKeys::parse(PrivateKey::generate().text().expose_secret()).unwrap()
    }

    #[test]
    fn a_delivery_opens_only_with_its_key_and_only_unchanged() {
        let keys = keys();
        let sealer = DeliverySealer::new(Sealer::PublicKey(keys.current().clone()));
        let opener = DeliveryOpener::new(Keyring::Configured(keys));
        let page = PageId::parse("7").unwrap();
        let seal = |text: &str| {
            let headers = [("Content-Type", "application/json")];
            let (pages, at) = (vec![page.clone()], HostTime(5));
            sealer.seal(&headers, text.as_bytes(), pages, at).unwrap()
        };
        let (first, second) = (seal("hello"), seal("hello"));
        assert_eq!(first.key, second.key, "one data key for many deliveries");
        assert_ne!(first.sealed, second.sealed);
        for delivery in [&second, &first, &first] {
            assert_eq!(opener.open(delivery).unwrap().body, b"hello");
        }
        let changed = [
            ForwardedDelivery {
                received_at: HostTime(6),
                ..first.clone()
            },
            ForwardedDelivery {
                pages: vec![PageId::parse("8").unwrap()],
                ..first.clone()
            },
            ForwardedDelivery {
                number: second.number,
                ..first.clone()
            },
            ForwardedDelivery {
                sealed: second.sealed.clone(),
                ..first.clone()
            },
        ];
        for delivery in changed {
            assert_eq!(opener.open(&delivery), Err(SealingError::Damaged));
        }
        let other = DeliveryOpener::new(Keyring::Configured(self::keys()));
        assert_eq!(
            other.open(&first),
            Err(SealingError::UnknownKey(first.key.key_id.clone()))
        );
    }
}
