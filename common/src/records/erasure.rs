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
use model::time::Millis;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::connection::{self, delete, uncover};
use super::grant::{Grant, Stage};
use super::run::Run;
use super::{
    all, commit, dead_letter, drift, get, login, put, subscription, throttle, token, write,
};
use crate::store::{
    Commit, DueWrite, Key, Kind, Outcome, PageWrite, Store, StoreError, Stored, Versioned,
};

/// How long the epoch of a person who was forgotten stands: nothing under way lives as long.
const EPOCH: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a receipt can be asked for.
const RECEIPT: Duration = Duration::from_secs(400 * 24 * 3600);

/// What an erasure came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Pages that are gone.
    pub pages: u64,
    /// Pages that somebody else covers: only this person was taken off them.
    pub kept: u64,
    /// Dead letters that mentioned any of it.
    pub letters: u64,
}

/// What became of a request to erase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// When it came, on our clock.
    pub requested: Millis,
    /// When everything was deleted.
    pub erased: Millis,
    /// When it was off the disk, too; `None`: that is still to be made sure of.
    #[serde(default)]
    pub scrubbed: Option<Millis>,
    /// What it came to.
    #[serde(flatten)]
    pub what: Erased,
}

/// A person's epoch, after they were forgotten.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ended {
    #[serde(default)]
    erased: Option<Millis>,
}

/// When a person was last forgotten, if within a week. A login that began before must not complete.
pub async fn erased_at(store: &dyn Store, user: &UserId) -> Result<Option<Millis>, StoreError> {
    let held = get::<Ended>(store, &connection::epoch_key(user)).await?;
    Ok(held.and_then(|held| held.value.erased))
}

/// Forgets a person: tokens, connection, and every Page that nobody else covers.
pub async fn user(store: &dyn Store, user: &UserId, now: Millis) -> Result<Erased, StoreError> {
    let ended = Ended { erased: Some(now) };
    let epoch = put(connection::epoch_key(user), &ended, None, Some(EPOCH));
    commit(store, connection::end(user, epoch)).await?;
    let tokens = all::<token::Held>(store, Kind::PageToken, &token::prefix(user)).await?;
    // First, while the tokens still say which Pages these are.
    let pages: Vec<PageId> = tokens
        .iter()
        .filter_map(|(id, _)| token::page_of(id))
        .collect();
    let ids = |pages: &[PageId]| -> Vec<String> {
        let pages = pages.iter().map(ToString::to_string);
        pages.chain([user.to_string()]).collect()
    };
    let mut erased = Erased {
        letters: dead_letter::erase(store, &ids(&pages)).await?,
        ..Erased::default()
    };
    let mut gone = Vec::new();
    for (id, _) in tokens {
        let key = Key::new(Kind::PageToken, id);
        match token::page_of(&key.id) {
            Some(id) if erase_alone(store, &id, user, now).await? => gone.push(id),
            _ => {
                uncover(store, user, key).await?;
                erased.kept += 1;
            }
        }
    }
    erased.pages = gone.len() as u64;
    erased.letters += dead_letter::erase(store, &ids(&gone)).await?;
    let mut traces = vec![delete(throttle::key(&format!("user:{user}")))];
    for (id, run) in all::<Run>(store, Kind::Run, "").await? {
        if run.value.connection == *user {
            traces.push(delete(Key::new(Kind::Run, id)));
        }
    }
    for (id, grant) in all::<Grant>(store, Kind::Grant, "").await? {
        if matches!(&grant.value.stage, Stage::Connected(who) if who == user) {
            traces.push(delete(Key::new(Kind::Grant, id)));
        }
    }
    write(store, traces).await?;
    Ok(erased)
}

/// Forgets a Page that only `user` covers. `Ok(false)`: somebody else does.
async fn erase_alone(
    store: &dyn Store,
    id: &PageId,
    user: &UserId,
    now: Millis,
) -> Result<bool, StoreError> {
    loop {
        let held = store.load(std::slice::from_ref(id)).await?.pop();
        let Some(Versioned { version, value }) = held else {
            return Ok(false);
        };
        let mut covering = match value {
            Stored::Page(page) => page.connections,
            Stored::Unknown | Stored::Corrupt(_) => BTreeSet::new(),
        };
        covering.insert(user.clone());
        if covering.len() > 1 {
            return Ok(false);
        }
        if end_of_page(store, id, version, &covering, now).await? == Outcome::Applied {
            return Ok(true);
        }
    }
}

/// Forgets a Page, whoever covers it. It stays forgotten until one of them logs in again or it is
/// added by hand. `Ok(None)`: nothing is known of it.
pub async fn page(
    store: &dyn Store,
    id: &PageId,
    now: Millis,
) -> Result<Option<Erased>, StoreError> {
    loop {
        let held = store.load(std::slice::from_ref(id)).await?.pop();
        let Some(Versioned { version, value }) = held else {
            return Ok(None);
        };
        let covering = match value {
            Stored::Unknown => return Ok(None),
            Stored::Page(page) if page.status == Status::Forgotten => return Ok(None),
            Stored::Page(page) => page.connections,
            Stored::Corrupt(_) => {
                let all = connection::list(store).await?;
                all.into_iter().map(|connection| connection.user).collect()
            }
        };
        if end_of_page(store, id, version, &covering, now).await? == Outcome::Applied {
            let letters = dead_letter::erase(store, &[id.to_string()]).await?;
            return Ok(Some(Erased {
                pages: 1,
                kept: 0,
                letters,
            }));
        }
    }
}

/// The commit after which nothing is left of a Page but that it was forgotten.
async fn end_of_page(
    store: &dyn Store,
    id: &PageId,
    version: u64,
    covering: &BTreeSet<UserId>,
    now: Millis,
) -> Result<Outcome, StoreError> {
    let mut next = Commit {
        records: vec![
            delete(subscription::key(id)),
            delete(throttle::key(&format!("page:{id}"))),
        ],
        due: [Subject::Page(id.clone()), Subject::Subscription(id.clone())]
            .map(|subject| DueWrite { subject, due: None })
            .into(),
        page: Some(PageWrite {
            id: id.clone(),
            expected: version,
            page: Page {
                status: Status::Forgotten,
                ..Page::default()
            },
            changes: Vec::new(),
            at: now,
        }),
        guards: Vec::new(),
    };
    let tokens = covering.iter().map(|user| delete(token::of_page(user, id)));
    next.records.extend(tokens);
    for (gap, _) in all::<drift::Found>(store, Kind::Gap, &drift::prefix(id)).await? {
        next.records.push(delete(Key::new(Kind::Gap, gap)));
    }
    commit(store, next).await
}

/// A confirmation code: random, and provably ours, so that asking for others tells nothing.
pub fn code(secret: &SecretString, random: &[u8; 16]) -> String {
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
pub fn is_ours(secrets: &[SecretString], code: &str) -> bool {
    let bytes = BASE64URL.decode(code).unwrap_or_default();
    let (random, tag) = bytes.split_at(bytes.len().min(16));
    let right = |secret| mac(secret, random).verify_truncated_left(tag).is_ok();
    tag.len() == 16 && secrets.iter().any(right)
}

/// The record of a receipt, by the hash of its code.
pub fn receipt_key(hash: &str) -> Key {
    Key::new(Kind::Receipt, hash)
}

/// The hash of a code, as jobs and records have it.
pub fn hash(code: &str) -> String {
    login::hash(code)
}

/// Keeps a receipt.
pub async fn keep(store: &dyn Store, hash: &str, receipt: &Receipt) -> Result<(), StoreError> {
    let put = put(receipt_key(hash), receipt, None, Some(RECEIPT));
    write(store, vec![put]).await.map(drop)
}

/// What became of the request with this code; `None`: it is still to be done.
pub async fn receipt(store: &dyn Store, code: &str) -> Result<Option<Receipt>, StoreError> {
    let held = get::<Receipt>(store, &receipt_key(&hash(code))).await?;
    Ok(held.map(|held| held.value))
}

/// Makes sure that what erasures deleted is off the disk, and says so in their receipts.
pub async fn scrub(store: &dyn Store, now: Millis) -> Result<(), StoreError> {
    let receipts = all::<Receipt>(store, Kind::Receipt, "").await?;
    let open: Vec<_> = receipts
        .into_iter()
        .filter(|(_, held)| held.value.scrubbed.is_none())
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    store.scrub().await?;
    for (hash, held) in open {
        let scrubbed = Some(now);
        keep(
            store,
            &hash,
            &Receipt {
                scrubbed,
                ..held.value
            },
        )
        .await?;
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
        let code = code(&ours[1], &[7; 16]);
        assert!(is_ours(&ours, &code));
        assert!(!is_ours(&ours[..1], &code));
        for odd in [
            "",
            "AAAA",
            &code[1..],
            &format!("{code}A"),
            "../../etc",
            &"A".repeat(43),
        ] {
            assert!(!is_ours(&ours, odd), "{odd}");
        }
    }
}
