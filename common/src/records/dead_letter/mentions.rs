//! Finds the dead letters that mention an erased Page or person.
//!
//! Invariant: an erasure deletes every dead letter with the id, also one that this build cannot
//! decode. Only the dead letter of an erasure is retained.

use std::collections::{BTreeSet, HashSet};

use model::id::PageId;
use model::job::{Job, decode_job};
use model::page::Status;
use serde::Deserialize;
use serde_json::Value as Json;

use super::record::{is_erasure, job_text};
use super::removal::remove;
use crate::records::load_chunk;
use crate::store::{RecordKind, Store, StoreError, StoredPage, Versioned};

/// Which dead letters [`delete_mentioning`] removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// All.
    All,
    /// All but deliveries to forward, which a Page needs that is kept.
    ExceptDeliveries,
}

/// Removes every dead letter that contains one of these ids of Pages or people. Returns how many
/// were removed.
pub async fn delete_mentioning(
    store: &dyn Store,
    ids: &[String],
    removed: Removed,
) -> Result<u64, StoreError> {
    let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
    let (mut erased, mut after) = (0, None);
    while let Some(chunk) =
        load_chunk::<Json>(store, RecordKind::DeadLetter, "", &mut after).await?
    {
        for (id, stored) in chunk {
            let (text, job) = searchable_text(stored.value);
            let is_retained = match &job {
                // An erasure that failed is retained, so that it can be replayed.
                Some(job) if is_erasure(job) => true,
                Some(Job::Forward(_)) => removed == Removed::ExceptDeliveries,
                _ => false,
            };
            if !is_retained && numbers(&text).any(|number| ids.contains(number)) {
                remove(store, &id).await?;
                erased += 1;
            }
        }
    }
    Ok(erased)
}

/// Returns the text of a stored dead letter in which ids are searched, and its job. The text of a dead
/// letter that this build cannot decode is its JSON.
fn searchable_text(body: Json) -> (String, Option<Job>) {
    /// The parts that every version has.
    #[derive(Deserialize)]
    struct Parts {
        job: String,
        #[serde(default)]
        reason: String,
    }
    let json = body.to_string();
    match serde_json::from_value::<Parts>(body) {
        Ok(Parts { job, reason }) => {
            let job = decode_job(&job);
            if let Job::Forward(delivery) = &job {
                // The rest of its JSON is sealed, and digits in it are no ids.
                let pages: Vec<&str> = delivery.pages.iter().map(PageId::as_str).collect();
                return (pages.join(" "), Some(job));
            }
            let text = format!("{reason}\n{}\n{json}", job_text(&job));
            (text, Some(job))
        }
        Err(_) => (json, None),
    }
}

/// Returns whether a text contains the id of an erased Page. Only the first 2,000 numbers that have
/// the form of an id are checked.
pub async fn mentions_erased_page(store: &dyn Store, text: &str) -> Result<bool, StoreError> {
    // The limit bounds the loads. Facebook sends at most 1,000 changes in one delivery, and each
    // entry has two such numbers: its id and its time.
    const MAX_IDS: usize = 2000;
    let ids: BTreeSet<PageId> = numbers(text)
        .filter_map(|n| PageId::parse(n).ok())
        .take(MAX_IDS)
        .collect();
    let ids: Vec<PageId> = ids.into_iter().collect();
    for chunk in ids.chunks(200) {
        let is_erased = |stored: &Versioned<StoredPage>| matches!(&stored.value, StoredPage::Page(page) if page.status == Status::Erased);
        if store.load_pages(chunk).await?.iter().any(is_erased) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns whether a text contains these digits as a whole number, not as a part of a longer one.
pub(in crate::records) fn contains_number(text: &str, digits: &str) -> bool {
    numbers(text).any(|number| number == digits)
}

/// Returns the sequences of digits in a text. Some of the returned texts are empty.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_digit())
}
