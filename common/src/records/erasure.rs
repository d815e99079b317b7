//! Erasing: a Page with everything that was known of it, or a person with all Pages that nobody else
//! covers.
//!
//! Invariants: the epoch moves first, so that nothing that is under way can write afterwards; each Page
//! goes in one commit with its tokens; doing it again, after a crash or by a second worker, is safe.
//! What is left of a Page is that it was forgotten, of a person an epoch for a week.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use hmac::{Hmac, KeyInit as _, Mac as _};
use model::id::{PageId, Subject, UserId};
use model::page::{Page, Status};
use model::time::HostTime;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::connection::{self, delete_write};
use super::daily_poll::DailyPoll;
use super::grant::{Grant, Stage};
use super::{
    commit_one, dead_letter, load_all, load_record, missed_webhooks, put_write, rate_limit,
    subscription, token, write_records,
};
use crate::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, RecordKey, RecordKind, Store, StoreError,
    StoredPage, Versioned, load_page,
};
use model::hex::sha256_hex;

/// How long the epoch of a person who was forgotten stands: nothing under way lives as long.
const EPOCH_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long Facebook may deliver again what it sent before an erasure, and an hour.
const REDELIVERY_WINDOW: Duration = Duration::from_secs(37 * 3600);
/// Two sweeps for one receipt are at least this far apart: each rewrites the whole log.
const SCRUB_INTERVAL: Duration = Duration::from_secs(12 * 3600);
/// How long a receipt can be asked for.
const RECEIPT_TTL: Duration = Duration::from_secs(400 * 24 * 3600);

/// What an erasure came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureResult {
    /// Pages that are gone.
    pub pages_erased: u64,
    /// Pages that somebody else covers: only this person was taken off them.
    pub pages_kept: u64,
    /// Dead letters that mentioned any of it.
    pub dead_letters: u64,
}

/// What became of a request to erase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureReceipt {
    /// When it came, on our clock.
    pub requested_at: HostTime,
    /// When everything was deleted.
    pub erased_at: HostTime,
    /// When it was off the disk, too; `None`: that is still to be made sure of.
    #[serde(default)]
    pub scrubbed_at: Option<HostTime>,
    /// What it came to.
    #[serde(flatten)]
    pub result: ErasureResult,
}

/// A person's epoch, after they were forgotten.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ErasedEpoch {
    #[serde(default)]
    erased_at: Option<HostTime>,
}

/// When a person was last forgotten, if within a week. A login that began before must not complete.
pub async fn erased_at(store: &dyn Store, user: &UserId) -> Result<Option<HostTime>, StoreError> {
    let stored = load_record::<ErasedEpoch>(store, &connection::epoch_key(user)).await?;
    Ok(stored.and_then(|stored| stored.value.erased_at))
}

/// Forgets a person, as they asked at `requested`: tokens, connection, and every Page that nobody else
/// covers. A login that came later is another consent, and stays with all it brought.
pub async fn erase_user(
    store: &dyn Store,
    user: &UserId,
    requested: HostTime,
) -> Result<ErasureResult, StoreError> {
    if !end_connection(store, user, requested).await? {
        return Ok(ErasureResult::default());
    }
    let tokens =
        load_all::<token::StoredToken>(store, RecordKind::PageToken, &token::page_prefix(user))
            .await?;
    let tokens: Vec<RecordKey> = tokens
        .into_iter()
        .filter(|(_, stored)| stored.value.obtained_at <= requested)
        .map(|(id, _)| RecordKey::new(RecordKind::PageToken, id))
        .collect();
    // First, while the tokens still say which Pages these are.
    let pages: Vec<PageId> = tokens
        .iter()
        .filter_map(|key| token::page_in_id(&key.id))
        .collect();
    let ids = |pages: &[PageId]| -> Vec<String> {
        let pages = pages.iter().map(ToString::to_string);
        pages.chain([user.to_string()]).collect()
    };
    let mut erased = ErasureResult {
        dead_letters: dead_letter::erase(store, &ids(&pages)).await?,
        ..ErasureResult::default()
    };
    let mut gone = Vec::new();
    for key in tokens {
        match token::page_in_id(&key.id) {
            Some(id) if remove_user_from_page(store, &id, user, &key, requested).await? => {
                gone.push(id)
            }
            Some(_) => erased.pages_kept += 1,
            None => drop(write_records(store, vec![delete_write(key)]).await?),
        }
    }
    erased.pages_erased = gone.len() as u64;
    erased.dead_letters += dead_letter::erase(store, &ids(&gone)).await?;
    let mut traces = vec![delete_write(rate_limit::key(&format!("user:{user}")))];
    for (id, run) in load_all::<DailyPoll>(store, RecordKind::DailyPoll, "").await? {
        if run.value.connection == *user {
            traces.push(delete_write(RecordKey::new(RecordKind::DailyPoll, id)));
        }
    }
    for (id, grant) in load_all::<Grant>(store, RecordKind::Grant, "").await? {
        let is_theirs = matches!(&grant.value.stage, Stage::Connected(who) if who == user);
        if is_theirs && grant.value.began_at <= requested {
            traces.push(delete_write(RecordKey::new(RecordKind::Grant, id)));
        }
    }
    write_records(store, traces).await?;
    Ok(erased)
}

/// Ends the connection. `Ok(false)`: it is of a later login.
async fn end_connection(
    store: &dyn Store,
    user: &UserId,
    requested: HostTime,
) -> Result<bool, StoreError> {
    loop {
        let stored = connection::find(store, user).await?;
        if stored
            .as_ref()
            .is_some_and(|stored| stored.value.consented_at > requested)
        {
            return Ok(false);
        }
        let erased = Some(requested);
        let epoch = put_write(
            connection::epoch_key(user),
            &ErasedEpoch { erased_at: erased },
            None,
            Some(EPOCH_TTL),
        );
        let version = stored.map_or(0, |stored| stored.version);
        let ended = commit_one(store, connection::end_commit(user, version, epoch)).await?;
        if ended == CommitOutcome::Applied {
            return Ok(true);
        }
    }
}

/// Takes a person off a Page, and forgets the Page if nobody else covers it; one decision on one load.
/// `Ok(false)`: somebody else does.
async fn remove_user_from_page(
    store: &dyn Store,
    id: &PageId,
    user: &UserId,
    token: &RecordKey,
    requested: HostTime,
) -> Result<bool, StoreError> {
    loop {
        let stored = load_page(store, id).await?;
        let mut covering = users_with_access(store, id, &stored.value).await?;
        covering.insert(user.clone());
        let alone = covering.len() == 1;
        let done = if alone {
            erase_page_commit(store, id, stored.version, &covering, requested).await?
        } else {
            commit_one(
                store,
                connection::remove_access_commit(user, token, id.clone(), stored),
            )
            .await?
        };
        if done == CommitOutcome::Applied {
            return Ok(alone);
        }
    }
}

/// Whose logins cover a Page; where the Page does not say, whose tokens do.
async fn users_with_access(
    store: &dyn Store,
    id: &PageId,
    stored: &StoredPage,
) -> Result<BTreeSet<UserId>, StoreError> {
    if let StoredPage::Page(page) = stored
        && !page.connections.is_empty()
    {
        return Ok(page.connections.clone());
    }
    let found = connection::users_with_token(store, id).await?;
    Ok(found.into_iter().collect())
}

/// Forgets a Page, whoever covers it. It stays forgotten until one of them logs in again or it is
/// added by hand. `Ok(None)`: nothing is known of it.
pub async fn erase_page(
    store: &dyn Store,
    id: &PageId,
    now: HostTime,
) -> Result<Option<ErasureResult>, StoreError> {
    loop {
        let Versioned { version, value } = load_page(store, id).await?;
        let is_gone = matches!(&value, StoredPage::Page(page) if page.status == Status::Erased);
        if is_gone || value == StoredPage::Unknown {
            return Ok(None);
        }
        let covering = users_with_access(store, id, &value).await?;
        if erase_page_commit(store, id, version, &covering, now).await? == CommitOutcome::Applied {
            let letters = dead_letter::erase(store, &[id.to_string()]).await?;
            return Ok(Some(ErasureResult {
                pages_erased: 1,
                pages_kept: 0,
                dead_letters: letters,
            }));
        }
    }
}

/// The commit after which nothing is left of a Page but that it was forgotten.
async fn erase_page_commit(
    store: &dyn Store,
    id: &PageId,
    version: u64,
    covering: &BTreeSet<UserId>,
    now: HostTime,
) -> Result<CommitOutcome, StoreError> {
    let mut next = Commit {
        records: vec![
            delete_write(subscription::key(id)),
            delete_write(rate_limit::key(&format!("page:{id}"))),
        ],
        due: [Subject::Page(id.clone()), Subject::Subscription(id.clone())]
            .map(|subject| DueWrite { subject, due: None })
            .into(),
        page: Some(PageWrite {
            id: id.clone(),
            expected: version,
            page: Page {
                status: Status::Erased,
                erased_at: Some(now),
                ..Page::default()
            },
            changes: Vec::new(),
            received_at: now,
        }),
        guards: Vec::new(),
    };
    let tokens = covering
        .iter()
        .map(|user| delete_write(token::page_key(user, id)));
    next.records.extend(tokens);
    for (gap, _) in load_all::<missed_webhooks::UnannouncedRecord>(
        store,
        RecordKind::UnannouncedChange,
        &missed_webhooks::page_prefix(id),
    )
    .await?
    {
        next.records.push(delete_write(RecordKey::new(
            RecordKind::UnannouncedChange,
            gap,
        )));
    }
    commit_one(store, next).await
}

/// A confirmation code: random, and provably ours, so that asking for others tells nothing.
pub fn confirmation_code(secret: &SecretString, random: &[u8; 16]) -> String {
    let tag = mac(secret, random).finalize().into_bytes();
    let mut bytes = random.to_vec();
    bytes.extend_from_slice(&tag[..16]);
    BASE64URL.encode(bytes)
}

fn mac(secret: &SecretString, random: &[u8]) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes());
    let mac = mac.unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"));
    mac.chain_update(b"pagesync receipt ").chain_update(random)
}

/// Whether a confirmation code is ours. Compares in constant time.
pub fn is_valid_code(secrets: &[SecretString], code: &str) -> bool {
    let bytes = BASE64URL.decode(code).unwrap_or_default();
    let (random, tag) = bytes.split_at(bytes.len().min(16));
    let right = |secret| mac(secret, random).verify_truncated_left(tag).is_ok();
    tag.len() == 16 && secrets.iter().any(right)
}

/// The record of a receipt, by the hash of its code.
pub fn receipt_key(hash: &str) -> RecordKey {
    RecordKey::new(RecordKind::ErasureReceipt, hash)
}

/// Keeps a receipt. The first one stands: a request that is worked on again finds nothing to erase.
pub async fn save_receipt(
    store: &dyn Store,
    hash: &str,
    receipt: &ErasureReceipt,
) -> Result<(), StoreError> {
    let put = put_write(receipt_key(hash), receipt, Some(0), Some(RECEIPT_TTL));
    write_records(store, vec![put]).await.map(drop)
}

/// What became of the request with this code; `None`: it is still to be done.
pub async fn find_receipt(
    store: &dyn Store,
    code: &str,
) -> Result<Option<ErasureReceipt>, StoreError> {
    let stored = load_record::<ErasureReceipt>(store, &receipt_key(&sha256_hex(code))).await?;
    Ok(stored.map(|stored| stored.value))
}

/// Makes sure that what erasures deleted is off the disk, and says so in their receipts. Swept again
/// until nothing of the time before can come any more: what a delivery of Facebook's carried is deleted
/// from the queue, and with that not off the disk.
pub async fn scrub_store(store: &dyn Store, now: HostTime) -> Result<(), StoreError> {
    let receipts = load_all::<ErasureReceipt>(store, RecordKind::ErasureReceipt, "").await?;
    let open: Vec<_> = receipts
        .into_iter()
        .filter(|(_, stored)| {
            let end = stored.value.erased_at.plus(REDELIVERY_WINDOW);
            let again = |at: HostTime| at < end && (end <= now || at.plus(SCRUB_INTERVAL) <= now);
            stored.value.scrubbed_at.is_none_or(again)
        })
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    store.scrub().await?;
    for (hash, stored) in open {
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
    fn a_code_is_ours_whole_or_not_at_all() {
        let secret = |text: &str| SecretString::from(text.to_owned());
        let ours = [secret("0123456789abcdef"), secret("the one before")];
        let code = confirmation_code(&ours[1], &[7; 16]);
        assert!(is_valid_code(&ours, &code));
        assert!(!is_valid_code(&ours[..1], &code));
        for odd in [
            "",
            "AAAA",
            &code[1..],
            &format!("{code}A"),
            "../../etc",
            &"A".repeat(43),
        ] {
            assert!(!is_valid_code(&ours, odd), "{odd}");
        }
    }
}
