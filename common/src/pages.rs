//! Operations on Pages that commands and the worker use: registering a Page and requesting a read.
//!
//! Invariant: each operation writes the Page and its due time in one commit. The operation is
//! repeated if another process has changed the Page in the meantime.

use model::id::{PageId, Subject};
use model::page::{Page, Status};
use model::time::HostTime;

use crate::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, Store, StoreError, StoredPage, Versioned, load_page,
};

/// Registers Pages and requests their first reads, with one batch of commits. A Page that was erased
/// is registered again. Returns for each id, in the same order, `false` if the Page is already
/// registered.
pub async fn register(
    store: &dyn Store,
    ids: &[PageId],
    now: HostTime,
) -> Result<Vec<bool>, StoreError> {
    let mut registered = vec![false; ids.len()];
    let mut pending: Vec<usize> = (0..ids.len()).collect();
    while !pending.is_empty() {
        let pending_ids: Vec<PageId> = pending.iter().map(|i| ids[*i].clone()).collect();
        let loaded = store.load_pages(&pending_ids).await?;
        let is_registered = |stored: &StoredPage| matches!(stored, StoredPage::Page(page) if page.status != Status::Erased);
        let (indexes, commits): (Vec<usize>, Vec<Commit>) = pending
            .into_iter()
            .zip(loaded)
            .filter(|(_, stored)| !is_registered(&stored.value))
            .map(|(i, stored)| (i, registration_commit(&ids[i], stored.version, now)))
            .unzip();
        if commits.is_empty() {
            break;
        }
        let outcomes = store.commit(&commits).await?;
        pending = Vec::new();
        for (i, outcome) in indexes.into_iter().zip(outcomes) {
            match outcome {
                CommitOutcome::Applied => registered[i] = true,
                CommitOutcome::Stale => pending.push(i),
            }
        }
    }
    Ok(registered)
}

/// Requests a read of a Page and returns when it is due, on this host's clock. Returns `None` if
/// the Page is unknown, corrupt or erased.
pub async fn request_read(
    store: &dyn Store,
    id: &PageId,
    now: HostTime,
) -> Result<Option<HostTime>, StoreError> {
    loop {
        let Versioned {
            version,
            value: StoredPage::Page(mut page),
        } = load_page(store, id).await?
        else {
            return Ok(None);
        };
        if page.status == Status::Erased {
            return Ok(None);
        }
        page.polling.request_read_now(now);
        let due = page.polling.due();
        let write = PageWrite {
            id: id.clone(),
            expected: version,
            page: *page,
            changes: Vec::new(),
            received_at: now,
        };
        let commit = Commit {
            page: Some(write),
            due: vec![DueWrite {
                subject: Subject::Page(id.clone()),
                due,
            }],
            ..Commit::default()
        };
        if store.commit(&[commit]).await? == [CommitOutcome::Applied] {
            return Ok(due.map(|(_, at)| at));
        }
    }
}

/// Returns the commit that stores an empty Page with a request for its first read. `expected` is
/// the stored version of the Page, or 0 if none is stored.
pub fn registration_commit(id: &PageId, expected: u64, now: HostTime) -> Commit {
    let mut page = Page::default();
    page.polling.request_read(now);
    let due = DueWrite {
        subject: Subject::Page(id.clone()),
        due: page.polling.due(),
    };
    let write = PageWrite {
        id: id.clone(),
        expected,
        page,
        changes: Vec::new(),
        received_at: now,
    };
    Commit {
        page: Some(write),
        due: vec![due],
        ..Commit::default()
    }
}
