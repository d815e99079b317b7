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

use super::connection::{self, delete};
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
/// How long Facebook may deliver again what it sent before an erasure, and an hour.
const REPEATS: Duration = Duration::from_secs(37 * 3600);
/// Two sweeps for one receipt are at least this far apart: each rewrites the whole log.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(12 * 3600);
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

/// Forgets a person, as they asked at `requested`: tokens, connection, and every Page that nobody else
/// covers. A login that came later is another consent, and stays with all it brought.
pub async fn user(
    store: &dyn Store,
    user: &UserId,
    requested: Millis,
) -> Result<Erased, StoreError> {
    if !end(store, user, requested).await? {
        return Ok(Erased::default());
    }
    let tokens = all::<token::Held>(store, Kind::PageToken, &token::prefix(user)).await?;
    let tokens: Vec<Key> = tokens
        .into_iter()
        .filter(|(_, held)| held.value.obtained <= requested)
        .map(|(id, _)| Key::new(Kind::PageToken, id))
        .collect();
    // First, while the tokens still say which Pages these are.
    let pages: Vec<PageId> = tokens
        .iter()
        .filter_map(|key| token::page_of(&key.id))
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
    for key in tokens {
        match token::page_of(&key.id) {
            Some(id) if leave(store, &id, user, &key, requested).await? => gone.push(id),
            Some(_) => erased.kept += 1,
            None => drop(write(store, vec![delete(key)]).await?),
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
        let is_theirs = matches!(&grant.value.stage, Stage::Connected(who) if who == user);
        if is_theirs && grant.value.begun <= requested {
            traces.push(delete(Key::new(Kind::Grant, id)));
        }
    }
    write(store, traces).await?;
    Ok(erased)
}

/// Ends the connection. `Ok(false)`: it is of a later login.
async fn end(store: &dyn Store, user: &UserId, requested: Millis) -> Result<bool, StoreError> {
    loop {
        let held = connection::find(store, user).await?;
        if held
            .as_ref()
            .is_some_and(|held| held.value.consented > requested)
        {
            return Ok(false);
        }
        let erased = Some(requested);
        let epoch = put(
            connection::epoch_key(user),
            &Ended { erased },
            None,
            Some(EPOCH),
        );
        let version = held.map_or(0, |held| held.version);
        let ended = commit(store, connection::end(user, version, epoch)).await?;
        if ended == Outcome::Applied {
            return Ok(true);
        }
    }
}

/// Takes a person off a Page, and forgets the Page if nobody else covers it; one decision on one load.
/// `Ok(false)`: somebody else does.
async fn leave(
    store: &dyn Store,
    id: &PageId,
    user: &UserId,
    token: &Key,
    requested: Millis,
) -> Result<bool, StoreError> {
    loop {
        let Some(held) = store.load(std::slice::from_ref(id)).await?.pop() else {
            return Ok(false);
        };
        let mut covering = covering(store, id, &held.value).await?;
        covering.insert(user.clone());
        let alone = covering.len() == 1;
        let done = if alone {
            end_of_page(store, id, held.version, &covering, requested).await?
        } else {
            commit(store, connection::uncovering(user, token, id.clone(), held)).await?
        };
        if done == Outcome::Applied {
            return Ok(alone);
        }
    }
}

/// Whose logins cover a Page; where the Page does not say, whose tokens do.
async fn covering(
    store: &dyn Store,
    id: &PageId,
    held: &Stored,
) -> Result<BTreeSet<UserId>, StoreError> {
    if let Stored::Page(page) = held
        && !page.connections.is_empty()
    {
        return Ok(page.connections.clone());
    }
    let mut found = BTreeSet::new();
    for login in connection::list(store).await? {
        if store
            .record(&token::of_page(&login.user, id))
            .await?
            .is_some()
        {
            found.insert(login.user);
        }
    }
    Ok(found)
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
        let is_gone = matches!(&value, Stored::Page(page) if page.status == Status::Forgotten);
        if is_gone || value == Stored::Unknown {
            return Ok(None);
        }
        let covering = covering(store, id, &value).await?;
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
                forgotten: Some(now),
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

/// Keeps a receipt. The first one stands: a request that is worked on again finds nothing to erase.
pub async fn keep(store: &dyn Store, hash: &str, receipt: &Receipt) -> Result<(), StoreError> {
    let put = put(receipt_key(hash), receipt, Some(0), Some(RECEIPT));
    write(store, vec![put]).await.map(drop)
}

/// What became of the request with this code; `None`: it is still to be done.
pub async fn receipt(store: &dyn Store, code: &str) -> Result<Option<Receipt>, StoreError> {
    let held = get::<Receipt>(store, &receipt_key(&hash(code))).await?;
    Ok(held.map(|held| held.value))
}

/// Makes sure that what erasures deleted is off the disk, and says so in their receipts. Swept again
/// until nothing of the time before can come any more: what a delivery of Facebook's carried is deleted
/// from the queue, and with that not off the disk.
pub async fn scrub(store: &dyn Store, now: Millis) -> Result<(), StoreError> {
    let receipts = all::<Receipt>(store, Kind::Receipt, "").await?;
    let open: Vec<_> = receipts
        .into_iter()
        .filter(|(_, held)| {
            let end = held.value.erased.plus(REPEATS);
            let again = |at: Millis| at < end && (end <= now || at.plus(BETWEEN_SWEEPS) <= now);
            held.value.scrubbed.is_none_or(again)
        })
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    store.scrub().await?;
    for (hash, held) in open {
        let receipt = Receipt {
            scrubbed: Some(now),
            ..held.value
        };
        let put = put(
            receipt_key(&hash),
            &receipt,
            Some(held.version),
            Some(RECEIPT),
        );
        write(store, vec![put]).await?;
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
