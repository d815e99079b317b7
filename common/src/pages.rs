//! The verbs on Pages that commands and the operator surface share, and the view people get.

use model::id::{PageId, Subject};
use model::page::{Page, Status};
use model::time::HostTime;

use crate::store::{
    Commit, CommitOutcome, DueWrite, PageWrite, Store, StoreError, StoredPage, Versioned, load_page,
};

/// Registers a Page; the same call that connecting will use. A Page that was forgotten lives again.
/// `Ok(false)`: it is already there.
pub async fn register(store: &dyn Store, id: &PageId, now: HostTime) -> Result<bool, StoreError> {
    loop {
        let stored = load_page(store, id).await?;
        if matches!(&stored.value, StoredPage::Page(page) if page.status != Status::Erased) {
            return Ok(false);
        }
        if store
            .commit(&[registration_commit(id, stored.version, now)])
            .await?
            == [CommitOutcome::Applied]
        {
            return Ok(true);
        }
    }
}

/// Asks for a read now; answers with when it is due. `None`: there is no such Page.
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
        page.polling.request_read(now);
        // Somebody asks by hand: what failed before is no reason to wait.
        page.polling.not_before = None;
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

/// The commit that registers a Page which has nothing yet: it wants its first read.
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
