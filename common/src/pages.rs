//! Operations on Pages that commands and the worker use, in batches: registering Pages, requesting
//! reads, and any other change that is decided for each stored Page.
//!
//! Invariant: each change of a Page is one commit, with its due time if that changes. The change is
//! decided again for a Page that another process has changed in the meantime.

use model::id::{PageId, Subject};
use model::page::{Page, Status};
use model::time::HostTime;

use crate::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, Store, StoreError, StoredPage, Versioned,
};

/// The number of Pages that a caller should pass at once. A batch usually waits for the disk once, and
/// it is small enough not to delay other clients of the store.
pub const COMMIT_BATCH: usize = 100;

/// Commits a change of each of these Pages, all in one batch. `plan` returns the commit for a stored
/// Page, or `None` if the Page remains as it is, and the result for it. The Pages that another process
/// changes in the meantime are loaded and planned again. Returns the results in the order of `ids`.
pub async fn commit_each<T, P>(
    store: &dyn Store,
    ids: &[PageId],
    mut plan: impl FnMut(PageId, Versioned<StoredPage>) -> P,
) -> Result<Vec<T>, StoreError>
where
    P: Future<Output = Result<(Option<Commit>, T), StoreError>>,
{
    let mut results: Vec<Option<T>> = ids.iter().map(|_| None).collect();
    let mut pending: Vec<usize> = (0..ids.len()).collect();
    while !pending.is_empty() {
        let pending_ids: Vec<PageId> = pending.iter().map(|i| ids[*i].clone()).collect();
        let loaded = store.load_pages(&pending_ids).await?;
        check_length(loaded.len(), pending.len())?;
        let (mut indexes, mut commits) = (Vec::new(), Vec::new());
        for (i, stored) in pending.into_iter().zip(loaded) {
            let (commit, result) = plan(ids[i].clone(), stored).await?;
            results[i] = Some(result);
            if let Some(commit) = commit {
                indexes.push(i);
                commits.push(commit);
            }
        }
        let outcomes = if commits.is_empty() {
            Vec::new()
        } else {
            store.commit(&commits).await?
        };
        check_length(outcomes.len(), indexes.len())?;
        let outcomes = indexes.into_iter().zip(outcomes);
        pending = outcomes
            .filter(|(_, outcome)| *outcome == CommitOutcome::Stale)
            .map(|(i, _)| i)
            .collect();
    }
    Ok(results.into_iter().flatten().collect())
}

/// Fails if the store returned another number of results than it was asked for.
fn check_length(returned: usize, requested: usize) -> Result<(), StoreError> {
    if returned == requested {
        return Ok(());
    }
    let reason = format!("the store returned {returned} results instead of {requested}");
    Err(StoreError::Unexpected(reason))
}

/// Registers Pages and requests their first reads, with one batch of commits. A Page that was erased
/// is registered again. Returns for each id, in the same order, `false` if the Page is already
/// registered.
pub async fn register(
    store: &dyn Store,
    ids: &[PageId],
    now: HostTime,
) -> Result<Vec<bool>, StoreError> {
    let plan = async |id: PageId, stored: Versioned<StoredPage>| {
        let is_registered =
            matches!(&stored.value, StoredPage::Page(page) if page.status != Status::Erased);
        let commit = (!is_registered).then(|| registration_commit(&id, stored.version, now));
        Ok((commit, !is_registered))
    };
    commit_each(store, ids, plan).await
}

/// Requests a read of each of these Pages, with one batch of commits. Returns for each id, in the same
/// order, when the read is due, on this host's clock, or `None` if the Page is unknown, corrupt or
/// erased.
pub async fn request_reads(
    store: &dyn Store,
    ids: &[PageId],
    now: HostTime,
) -> Result<Vec<Option<HostTime>>, StoreError> {
    request_reads_of(store, ids, now, |_| true).await
}

/// Requests reads as [`request_reads`] does, of those Pages for which `is_needed` returns `true`.
pub async fn request_reads_of(
    store: &dyn Store,
    ids: &[PageId],
    now: HostTime,
    is_needed: impl Fn(&Page) -> bool,
) -> Result<Vec<Option<HostTime>>, StoreError> {
    let plan = async |id: PageId, stored: Versioned<StoredPage>| {
        let StoredPage::Page(page) = stored.value else {
            return Ok((None, None));
        };
        if page.status == Status::Erased || !is_needed(&page) {
            return Ok((None, None));
        }
        let commit = read_request_commit(&id, stored.version, *page, now);
        let due = commit.due[0].due.map(|(_, at)| at);
        Ok((Some(commit), due))
    };
    commit_each(store, ids, plan).await
}

/// The result of [`request_read_of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestedRead {
    /// The read is due at this time, on this host's clock.
    Due(HostTime),
    /// The Page is erased and is not read.
    Erased,
    /// The Page has another version than the given one.
    Changed,
}

/// Requests a read of a Page that was loaded with `version`, unless it has changed since.
pub async fn request_read_of(
    store: &dyn Store,
    id: &PageId,
    version: u64,
    page: Page,
    now: HostTime,
) -> Result<RequestedRead, StoreError> {
    if page.status == Status::Erased {
        return Ok(RequestedRead::Erased);
    }
    let commit = read_request_commit(id, version, page, now);
    let due = commit.due.first().and_then(|write| write.due);
    let outcomes = store.commit(&[commit]).await?;
    Ok(match outcomes.first() {
        Some(CommitOutcome::Applied) => RequestedRead::Due(due.map_or(now, |(_, at)| at)),
        _ => RequestedRead::Changed,
    })
}

/// Returns the commit that requests a read of a Page and writes its due time.
fn read_request_commit(id: &PageId, expected: u64, mut page: Page, now: HostTime) -> Commit {
    page.polling.request_read_now(now);
    let due = DueWrite {
        subject: Subject::Page(id.clone()),
        due: page.polling.due(),
    };
    page_commit(id, expected, page, due, now)
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
    page_commit(id, expected, page, due, now)
}

fn page_commit(
    id: &PageId,
    expected: u64,
    page: Page,
    due: DueWrite,
    received_at: HostTime,
) -> Commit {
    let write = PageWrite {
        id: id.clone(),
        expected,
        page,
        changes: Vec::new(),
        received_at,
    };
    Commit {
        page: Some(write),
        due: vec![due],
        ..Commit::default()
    }
}
