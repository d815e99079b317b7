//! The receipts of erasures that Facebook requested, and the removal of the erased data from the disk.
//!
//! Invariant: a receipt says when the data was last removed from the disk. It is changed after the
//! removal.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use hmac::{Hmac, Mac as _};
use model::hex::{from_hex, hex, sha256_hex};
use model::time::HostTime;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::records::{load_all, load_record, put_write, write_records};
use crate::signing::hmac_sha256;
use crate::store::{CommitOutcome, RecordKey, RecordKind, Store, StoreError, Versioned};

/// How long after an erasure Facebook may deliver webhooks that are older: the 36 hours for which
/// it retries a delivery, and an hour.
const REDELIVERY_WINDOW: Duration = Duration::from_secs(37 * 3600);
/// The shortest time between two scrubs. Each scrub rewrites the whole log of the store.
const SCRUB_INTERVAL: Duration = Duration::from_secs(12 * 3600);
/// How long a scrub is reserved for a process. If it does not succeed, another one makes it then.
const SCRUB_CLAIM_TTL: Duration = Duration::from_secs(14 * 60);
/// How long a receipt is stored.
const RECEIPT_TTL: Duration = Duration::from_secs(400 * 24 * 3600);

/// The result of an erasure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureResult {
    /// How many Pages were erased.
    pub pages_erased: u64,
    /// How many Pages were not erased, because another connection gives access to them.
    pub pages_kept: u64,
    /// How many dead letters were erased.
    pub dead_letters: u64,
}

/// The receipt of an erasure that Facebook requested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureReceipt {
    /// When the erasure was requested, on this host's clock.
    pub requested_at: HostTime,
    /// When the erasure was complete in the store, on this host's clock.
    pub erased_at: HostTime,
    /// When the erased data was last scrubbed from the disk, on this host's clock; `None` if it was
    /// not yet.
    #[serde(default)]
    pub scrubbed_at: Option<HostTime>,
    /// The result of the erasure.
    #[serde(flatten)]
    pub result: ErasureResult,
}

/// Returns a confirmation code: 16 random bytes and their HMAC in hexadecimal, so that a code of this
/// deployment can be recognized without the store. Source: "Data Deletion Request Callback", which
/// requires an alphanumeric code.
pub fn confirmation_code(secret: &SecretString, random: &[u8; 16]) -> String {
    let tag = mac(secret, random).finalize().into_bytes();
    let mut bytes = random.to_vec();
    bytes.extend_from_slice(&tag[..16]);
    hex(&bytes)
}

fn mac(secret: &SecretString, random: &[u8]) -> Hmac<Sha256> {
    hmac_sha256(secret)
        .chain_update(b"pagesync receipt ")
        .chain_update(random)
}

/// Returns whether a confirmation code was made with one of these secrets. Compares in constant
/// time.
pub fn is_valid_code(secrets: &[SecretString], code: &str) -> bool {
    // Codes of earlier versions are base64url.
    let bytes = from_hex(code)
        .or_else(|| BASE64URL.decode(code).ok())
        .unwrap_or_default();
    let (random, tag) = bytes.split_at(bytes.len().min(16));
    let verifies = |secret| mac(secret, random).verify_truncated_left(tag).is_ok();
    tag.len() == 16 && secrets.iter().any(verifies)
}

/// Returns the key of the receipt of the code with this hash.
pub fn receipt_key(hash: &str) -> RecordKey {
    RecordKey::new(RecordKind::ErasureReceipt, hash)
}

/// Stores a receipt unless the request has one. The first receipt is not replaced, because a job
/// that is executed again finds nothing to erase.
pub async fn save_receipt(
    store: &dyn Store,
    hash: &str,
    receipt: &ErasureReceipt,
) -> Result<(), StoreError> {
    let put = put_write(receipt_key(hash), receipt, Some(0), Some(RECEIPT_TTL));
    write_records(store, vec![put]).await.map(drop)
}

/// Returns the receipt of the request with this confirmation code, or `None` if the request is not
/// done yet.
pub async fn find_receipt(
    store: &dyn Store,
    code: &str,
) -> Result<Option<ErasureReceipt>, StoreError> {
    let stored = load_record::<ErasureReceipt>(store, &receipt_key(&sha256_hex(code))).await?;
    Ok(stored.map(|stored| stored.value))
}

/// Scrubs erased data from the disk and records the time in the receipts. All erasures share one
/// scrub in 12 hours, which one process makes. The scrub of an erasure is repeated until 37 hours
/// after it, because Facebook may deliver older webhooks until then, and their data remains on the
/// disk after they have left the queue.
pub async fn scrub_store(store: &dyn Store, now: HostTime) -> Result<(), StoreError> {
    let receipts = load_all::<ErasureReceipt>(store, RecordKind::ErasureReceipt, "").await?;
    let times = receipts
        .iter()
        .filter_map(|(_, stored)| stored.value.scrubbed_at);
    // A later time than now is that of a host whose clock was ahead.
    let last = times.filter(|at| *at <= now).max();
    if last.is_some_and(|last| now < last.plus(SCRUB_INTERVAL)) {
        return Ok(());
    }
    let due: Vec<_> = receipts
        .into_iter()
        .filter(|(_, stored)| {
            let end = stored.value.erased_at.plus(REDELIVERY_WINDOW);
            stored.value.scrubbed_at.is_none_or(|at| at < end)
        })
        .collect();
    if due.is_empty() || !claim_scrub(store, last).await? {
        return Ok(());
    }
    store.scrub().await?;
    record_scrub(store, due, now).await
}

/// Reserves the scrub that follows the one at `last` for this process, until it is made or 14
/// minutes have passed. Returns `false` if another process has reserved it.
async fn claim_scrub(store: &dyn Store, last: Option<HostTime>) -> Result<bool, StoreError> {
    let id = format!("scrub.{}", last.map_or(0, |last| last.0));
    let key = RecordKey::new(RecordKind::Check, id);
    let claim = put_write(key, &1, Some(0), Some(SCRUB_CLAIM_TTL));
    Ok(write_records(store, vec![claim]).await? == CommitOutcome::Applied)
}

/// Records in receipts that the data of their erasures was scrubbed at `now`.
async fn record_scrub(
    store: &dyn Store,
    receipts: Vec<(String, Versioned<ErasureReceipt>)>,
    now: HostTime,
) -> Result<(), StoreError> {
    for (hash, stored) in receipts {
        let receipt = ErasureReceipt {
            scrubbed_at: Some(now),
            ..stored.value
        };
        let put = put_write(
            receipt_key(&hash),
            &receipt,
            Some(stored.version),
            Some(RECEIPT_TTL),
        );
        write_records(store, vec![put]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_code_is_valid_only_if_it_is_complete_and_unchanged() {
        let secret = |text: &str| SecretString::from(text.to_owned());
        let secrets = [secret("0123456789abcdef"), secret("the one before")];
        let code = confirmation_code(&secrets[1], &[7; 16]);
        assert!(is_valid_code(&secrets, &code));
        assert!(!is_valid_code(&secrets[..1], &code));
        for invalid in [
            "",
            "AAAA",
            &code[1..],
            &format!("{code}A"),
            "../../etc",
            &"A".repeat(43),
        ] {
            assert!(!is_valid_code(&secrets, invalid), "{invalid}");
        }
    }
}
