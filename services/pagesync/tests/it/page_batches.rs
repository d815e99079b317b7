//! Operations on many Pages. They write in batches, and each Page is decided from what is stored
//! when its commit is made, also if other processes work through the same Pages.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::pages::{COMMIT_BATCH, register, request_reads};
use common::records::erasure::PageErasure;
use common::records::{connection, erasure, put_write, token, write_records};
use common::store::{Commit, CommitOutcome, PageWrite, RecordWrite, Store, StoredPage, load_page};
use model::id::{PageId, UserId};
use model::page::{Page, Status};
use model::time::HostTime;
use pagesync::cli::EraseCommand;
use pagesync::output::Format;
use serde_json::json;

use crate::BACKEND;
use crate::support::deployment::TestStorage;
use crate::support::faulty_store::FaultyStore;
use crate::support::page_id;

/// Two full batches and a part of a third one.
const PAGES: u64 = 2 * COMMIT_BATCH as u64 + 50;
const NOW: HostTime = HostTime(1_700_000_000_000);

fn user(n: u64) -> UserId {
    UserId::parse(&format!("20000000000000{n}")).unwrap()
}

/// Stores Pages to which these people give access, with their tokens.
async fn store_pages(store: &dyn Store, ids: &[PageId], people: &[UserId]) {
    let tokens = |id: &PageId| -> Vec<RecordWrite> {
        // No build can decode this token, so it counts as one that has not been deleted.
        let write = |user| put_write(token::page_key(user, id), &json!({"sealed": 1}), None, None);
        people.iter().map(write).collect()
    };
    let commit = |id: &PageId| Commit {
        records: tokens(id),
        page: Some(PageWrite {
            id: id.clone(),
            expected: 0,
            page: Page {
                connections: people.iter().cloned().collect(),
                ..Page::default()
            },
            changes: Vec::new(),
            received_at: NOW,
        }),
        ..Commit::default()
    };
    let commits: Vec<Commit> = ids.iter().map(commit).collect();
    let outcomes = store.commit(&commits).await.unwrap();
    assert!(outcomes.iter().all(|o| *o == CommitOutcome::Applied));
}

async fn load(store: &dyn Store, id: &PageId) -> Page {
    match load_page(store, id).await.unwrap().value {
        StoredPage::Page(page) => *page,
        other => panic!("Page {id}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_with_many_pages_is_removed_in_batches() {
    let (_storage, store) = TestStorage::new(BACKEND).await.into_store();
    let ids: Vec<PageId> = (1..=PAGES).map(page_id).collect();
    // Every third Page has a second person, so that the results of a batch differ.
    let (shared, alone): (Vec<PageId>, Vec<PageId>) = ids
        .iter()
        .cloned()
        .partition(|id| id.as_str().ends_with(['0', '3', '6']));
    let (alone, shared) = (alone.as_slice(), shared.as_slice());
    store_pages(&*store, alone, &[user(1)]).await;
    store_pages(&*store, shared, &[user(1), user(2)]).await;
    let counting = FaultyStore::unavailable(store.clone(), 0, 0);

    // A token whose record names no Page is deleted, too.
    let odd = token::page_key(&user(2), &ids[0]);
    let odd = common::store::RecordKey::new(odd.kind, format!("{}.odd", user(2)));
    write_records(
        &*store,
        vec![put_write(odd.clone(), &json!({}), None, None)],
    )
    .await
    .unwrap();
    let deleted = connection::disconnect(&*counting, &user(2)).await.unwrap();
    assert_eq!(deleted, Some(shared.len() + 1));
    assert!(store.load_record(&odd).await.unwrap().is_none());
    assert_eq!(
        load(&*store, &shared[7]).await.connections,
        BTreeSet::from([user(1)])
    );
    let disconnected = counting.commit_calls();
    assert!(
        disconnected <= 6,
        "{disconnected} batches for {} Pages",
        shared.len()
    );

    // A third person gives access to some of the Pages.
    let kept = &shared[..10];
    for id in kept {
        let stored = load_page(&*store, id).await.unwrap();
        let StoredPage::Page(mut page) = stored.value else {
            unreachable!()
        };
        page.connections.insert(user(3));
        let write = PageWrite {
            id: id.clone(),
            expected: stored.version,
            page: *page,
            changes: Vec::new(),
            received_at: NOW,
        };
        let commit = Commit {
            page: Some(write),
            ..Commit::default()
        };
        assert_eq!(
            store.commit(&[commit]).await.unwrap(),
            [CommitOutcome::Applied]
        );
    }
    let erased = erasure::erase_user(&*counting, &user(1), NOW, None)
        .await
        .unwrap();
    let kept_count = kept.len() as u64;
    assert_eq!(
        (erased.pages_erased, erased.pages_kept),
        (PAGES - kept_count, kept_count)
    );
    for id in &ids {
        let is_erased = load(&*store, id).await.status == Status::Erased;
        assert_eq!(is_erased, !kept.contains(id), "{id}");
    }
    let batches = counting.commit_calls() - disconnected;
    assert!(batches <= 8, "{batches} batches for {PAGES} Pages");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_work_through_the_same_pages_do_each_page_once() {
    let (_storage, store) = TestStorage::new(BACKEND).await.into_store();
    let mut ids: Vec<PageId> = (1..=COMMIT_BATCH as u64).map(page_id).collect();
    // The same id twice in one batch is one Page.
    ids[1] = ids[0].clone();
    let distinct = ids.len() - 1;
    let processes: Vec<Arc<FaultyStore>> = (0..3)
        .map(|seed| FaultyStore::with_random_delays(store.clone(), seed))
        .collect();
    let [a, b, c] = processes.as_slice() else {
        unreachable!()
    };
    let count = |done: [Vec<bool>; 3]| done.iter().flatten().filter(|done| **done).count();

    let (one, two, three) = tokio::join!(
        register(&**a, &ids, NOW),
        register(&**b, &ids, NOW),
        register(&**c, &ids, NOW)
    );
    assert_eq!(
        count([one.unwrap(), two.unwrap(), three.unwrap()]),
        distinct
    );

    store_pages(&*store, &[page_id(500)], &[user(1)]).await;
    let unknown = page_id(501);
    let read: Vec<PageId> = ids.iter().cloned().chain([page_id(500), unknown]).collect();
    let (one, two) = tokio::join!(
        request_reads(&**a, &read, NOW),
        request_reads(&**b, &read, NOW)
    );
    for due in [one.unwrap(), two.unwrap()] {
        assert_eq!(due.len(), read.len());
        assert!(due[..=ids.len()].iter().all(Option::is_some) && due[ids.len() + 1].is_none());
    }
    let requested = load(&*store, &page_id(500)).await;
    assert!(requested.polling.open_request_from().is_some());

    let (one, two, three) = tokio::join!(
        erasure::erase_pages(&**a, &read, NOW),
        erasure::erase_pages(&**b, &read, NOW),
        erasure::erase_pages(&**c, &read, NOW)
    );
    let results = [one, two, three].map(Result::unwrap);
    assert!(
        results
            .iter()
            .all(|results| results[read.len() - 1] == PageErasure::Unknown)
    );
    let is_erased = |result: &&PageErasure| **result == PageErasure::Erased;
    assert_eq!(
        results.iter().flatten().filter(is_erased).count(),
        distinct + 1
    );
    for id in &read[..read.len() - 1] {
        assert_eq!(load(&*store, id).await.status, Status::Erased);
    }
    assert!(
        store
            .load_record(&token::page_key(&user(1), &page_id(500)))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_fails_on_the_way_is_completed_by_the_same_command() {
    let (_storage, store) = TestStorage::new(BACKEND).await.into_store();
    let ids: Vec<PageId> = (1..=PAGES).map(page_id).collect();
    register(&*store, &ids, NOW).await.unwrap();
    let command = || EraseCommand::Page {
        ids: ids.iter().map(ToString::to_string).collect(),
        dry_run: false,
    };
    let config = crate::support::command_config();
    let failing = FaultyStore::unavailable(store.clone(), 1, u64::MAX);
    let failed = pagesync::erase::run(&config, &*failing, command(), Format::Ndjson).await;
    let error = format!("{:#}", failed.unwrap_err());
    assert!(error.contains("run this command again"), "{error}");
    assert_eq!(load(&*store, &ids[0]).await.status, Status::Erased);
    assert_ne!(
        load(&*store, ids.last().unwrap()).await.status,
        Status::Erased
    );
    pagesync::erase::run(&config, &*store, command(), Format::Ndjson)
        .await
        .unwrap();
    for id in &ids {
        assert_eq!(load(&*store, id).await.status, Status::Erased);
    }
}
