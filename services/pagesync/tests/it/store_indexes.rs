//! The conformance suite of the trait `Store`, part 2: the due index, the feed, lists, corrupt
//! Pages and the check. Both backends must pass it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::store::{
    Changes, Commit, Cursor, DueEntry, DueWrite, PageIndex, PageWrite, StoredPage, Versioned,
};
use futures_util::future::join_all;
use model::id::{PageId, Subject};
use model::page::{Page, Status};
use model::queue_name::QueueName;
use model::time::HostTime;

use crate::BACKEND;
use crate::store::{apply, load, write};
use crate::support::deployment::TestStorage;
use crate::support::page_id;

/// The counts follow every change of a status.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_counted_by_their_present_status() {
    let (_storage, store) = TestStorage::new(BACKEND).await.into_store();
    let write = |n: u64, expected: u64, status: Status| Commit {
        page: Some(PageWrite {
            id: page_id(n),
            expected,
            page: Page {
                status,
                ..Page::default()
            },
            changes: Vec::new(),
            received_at: HostTime(1),
        }),
        ..Commit::default()
    };
    for n in 1..=7 {
        apply(&*store, write(n, 0, Status::Active)).await;
    }
    apply(&*store, write(1, 1, Status::NeedsLogin)).await;
    apply(&*store, write(2, 1, Status::Erased)).await;
    apply(&*store, write(3, 1, Status::Active)).await;
    apply(&*store, write(1, 2, Status::Active)).await;
    let counts = store.count_pages().await.unwrap();
    assert_eq!(counts.len(), Status::ALL.len());
    let other = counts.values().sum::<u64>() - 7;
    assert_eq!(
        (counts[&Status::Active], counts[&Status::Erased], other),
        (6, 1, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_due_subject_is_claimed_once_and_again_when_its_lease_has_ended() {
    const PAGES: u64 = 300;
    let store = TestStorage::new(BACKEND).await.into_store();
    let due = |n: u64, at: u64| Commit {
        due: vec![DueWrite {
            subject: Subject::Page(page_id(n)),
            due: Some((QueueName::PollsNow, HostTime(at))),
        }],
        ..Commit::default()
    };
    let commits: Vec<Commit> = (1..=PAGES).map(|n| due(n, 1000 + n)).collect();
    store.1.commit(&commits).await.unwrap();
    let (now, lease) = (HostTime(5000), Duration::from_secs(900));
    let claim_all = |now: HostTime| {
        let claimers = (0..3).map(|_| {
            let store = store.1.clone();
            tokio::spawn(async move {
                let mut own = Vec::new();
                loop {
                    let claims = store
                        .claim_due(QueueName::PollsNow, now, lease, 7)
                        .await
                        .unwrap();
                    if claims.is_empty() {
                        return own;
                    }
                    own.extend(claims.claims);
                }
            })
        });
        join_all(claimers)
    };
    let claims: Vec<_> = claim_all(now)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    let subjects: BTreeSet<Subject> = claims.iter().map(|claim| claim.subject.clone()).collect();
    assert_eq!(
        (claims.len() as u64, subjects.len() as u64),
        (PAGES, PAGES),
        "each subject is claimed once"
    );
    assert!(
        claims
            .iter()
            .all(|claim| claim.due_at.0 > 1000 && claim.due_at.0 <= 1000 + PAGES)
    );
    // The polls of 100 subjects are finished. The others are lost, as after a crash.
    let finished: Vec<Commit> = (1..=100).map(|n| due(n, 10_000_000)).collect();
    store.1.commit(&finished).await.unwrap();
    let claimed_again = claim_all(now.plus(lease))
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .count();
    assert_eq!(claimed_again as u64, PAGES - 100);
    let never = DueWrite {
        subject: Subject::Page(page_id(1)),
        due: None,
    };
    let daily = DueWrite {
        subject: Subject::Page(page_id(2)),
        due: Some((QueueName::PollsDaily, HostTime(5))),
    };
    apply(
        &*store.1,
        Commit {
            due: vec![never, daily],
            ..Commit::default()
        },
    )
    .await;
    assert_eq!(
        store.1.next_due(QueueName::PollsDaily, 9).await.unwrap(),
        [DueEntry::new("page:2".to_owned(), HostTime(5))]
    );
    assert_eq!(
        store
            .1
            .next_due(QueueName::PollsNow, 1000)
            .await
            .unwrap()
            .len() as u64,
        PAGES - 2
    );
}

#[tokio::test]
async fn a_feed_reader_gets_each_change_once_or_an_answer_that_entries_were_trimmed() {
    let (storage, store) = TestStorage::new(BACKEND).await.into_store();
    for n in 1..=6 {
        apply(&*store, write(&page_id(n), 0, "n", n)).await;
    }
    let read = async |cursor: Option<Cursor>, limit| match store
        .changes_after(cursor.as_ref(), limit)
        .await
        .unwrap()
    {
        Changes::Entries(entries) => entries,
        Changes::Trimmed(cursor) => panic!("entries before {cursor} were trimmed"),
    };
    let first = read(None, 2).await;
    assert_eq!(
        first
            .iter()
            .map(|(_, entry)| entry.page.clone())
            .collect::<Vec<_>>(),
        [page_id(1), page_id(2)]
    );
    let cursor = Cursor::parse(&first[1].0.to_string()).unwrap();
    let rest = read(Some(cursor.clone()), 100).await;
    assert_eq!(rest.len(), 4);
    assert_eq!(read(Some(rest[3].0.clone()), 100).await, []);
    storage.trim_feed_up_to(3).await;
    assert!(
        matches!(store.changes_after(Some(&cursor), 9).await.unwrap(), Changes::Trimmed(to) if to.position == 6)
    );
    let before_first = Cursor {
        position: 3,
        ..cursor.clone()
    };
    assert_eq!(read(Some(before_first), 100).await.len(), 3);
    let other_epoch = Cursor {
        epoch: "another".to_owned(),
        position: 6,
    };
    assert!(matches!(
        store.changes_after(Some(&other_epoch), 9).await.unwrap(),
        Changes::Trimmed(_)
    ));
    let ahead = Cursor {
        position: 7,
        ..cursor
    };
    assert!(matches!(
        store.changes_after(Some(&ahead), 9).await.unwrap(),
        Changes::Trimmed(_)
    ));
}

#[tokio::test]
async fn a_corrupt_page_does_not_affect_others_and_can_be_overwritten() {
    let (storage, store) = TestStorage::new(BACKEND).await.into_store();
    for n in 1..=3 {
        apply(&*store, write(&page_id(n), 0, "good", n)).await;
    }
    storage.corrupt(&page_id(2)).await;
    let ids = [page_id(1), page_id(2), page_id(3)];
    let stored = store.load_pages(&ids).await.unwrap();
    assert!(
        matches!(stored[0].value, StoredPage::Page(_))
            && matches!(stored[2].value, StoredPage::Page(_))
    );
    let StoredPage::Corrupt(corrupt) = &stored[1].value else {
        panic!("{:?}", stored[1])
    };
    assert!(
        corrupt.reason.contains("cannot be read"),
        "{}",
        corrupt.reason
    );
    assert_eq!(
        stored[1].version, 1,
        "the version is not in the damaged part"
    );
    apply(&*store, write(&page_id(2), 1, "again", 9)).await;
    assert!(matches!(
        load(&*store, &page_id(2)).await.value,
        StoredPage::Page(_)
    ));
}

#[tokio::test]
async fn pages_are_listed_in_order_and_an_erased_page_keeps_only_its_status_and_version() {
    let store = TestStorage::new(BACKEND).await.into_store();
    for n in [30, 4, 200] {
        apply(&*store.1, write(&page_id(n), 0, "secret", n)).await;
    }
    let ids = async |after: Option<&PageId>| -> Vec<String> {
        let pages = store.1.list_pages(&PageIndex::All, after, 2).await.unwrap();
        pages.into_iter().map(|(id, _)| id.to_string()).collect()
    };
    assert_eq!(ids(None).await, ["200", "30"]);
    assert_eq!(ids(Some(&page_id(30))).await, ["4"]);
    let page = Page {
        status: Status::Erased,
        ..Page::default()
    };
    let erasure = PageWrite {
        id: page_id(4),
        expected: 1,
        page: page.clone(),
        changes: Vec::new(),
        received_at: HostTime(1),
    };
    apply(
        &*store.1,
        Commit {
            page: Some(erasure),
            ..Commit::default()
        },
    )
    .await;
    assert_eq!(
        load(&*store.1, &page_id(4)).await,
        Versioned {
            version: 2,
            value: StoredPage::Page(Box::new(page))
        }
    );
    assert_eq!(store.1.history(&page_id(4)).await.unwrap(), []);
}

#[tokio::test]
async fn a_check_finds_no_error_and_always_returns_the_same_epoch() {
    let store = TestStorage::new(BACKEND).await.into_store();
    let first = store.1.check().await.unwrap();
    assert_eq!(first.errors, [] as [String; 0]);
    assert_eq!(store.1.check().await.unwrap().epoch, first.epoch);
    assert!(!first.epoch.is_empty());
}

/// Claims, publishes and crashes happen in random order. Some publishes happen after the lease has
/// ended and another scheduler has claimed the same Page.
#[tokio::test(flavor = "multi_thread")]
async fn three_schedulers_publish_each_due_page_and_at_most_once_more_for_each_ended_lease() {
    const PAGES: u64 = 60;
    let (storage, store) = TestStorage::new(BACKEND).await.into_store();
    let subjects: Vec<Subject> = (1..=PAGES).map(|n| Subject::Page(page_id(n))).collect();
    let due = |at: Option<HostTime>| Commit {
        due: subjects
            .iter()
            .map(|subject| DueWrite {
                subject: subject.clone(),
                due: at.map(|at| (QueueName::PollsNow, at)),
            })
            .collect(),
        ..Commit::default()
    };
    let lease = Duration::from_secs(900);
    for seed in 0..10 {
        let mut chance = fastrand::Rng::with_seed(seed);
        store.commit(&[due(Some(HostTime(1000)))]).await.unwrap();
        let mut now = HostTime(1000);
        // A Page may be published once more for each of its leases that ends before the publish.
        // `crashes` counts these leases.
        let (mut published, mut crashes) = (BTreeMap::new(), BTreeMap::new());
        let mut claimed: [Vec<Subject>; 3] = Default::default();
        for _ in 0..60 {
            let scheduler = chance.usize(0..3);
            let own = &mut claimed[scheduler];
            match chance.u8(0..4) {
                0 | 1 => {
                    let claims = store
                        .claim_due(QueueName::PollsNow, now, lease, chance.usize(1..20))
                        .await
                        .unwrap();
                    own.extend(claims.claims.into_iter().map(|claim| claim.subject));
                }
                // The scheduler publishes its claims, and a worker finishes the polls at once.
                2 => {
                    let done = own.drain(..).map(|subject| {
                        *published.entry(subject.clone()).or_insert(0_u64) += 1;
                        DueWrite { subject, due: None }
                    });
                    let done = Commit {
                        due: done.collect(),
                        ..Commit::default()
                    };
                    store.commit(&[done]).await.unwrap();
                }
                _ => {
                    for subject in claimed.iter().flatten() {
                        *crashes.entry(subject.clone()).or_insert(0_u64) += 1;
                    }
                    claimed[scheduler].clear();
                    now = now.plus(lease);
                }
            }
        }
        for own in &mut claimed {
            for subject in own.drain(..) {
                *crashes.entry(subject).or_insert(0) += 1;
            }
        }
        // A last scheduler publishes the rest and does not crash.
        now = now.plus(lease);
        let rest = store
            .claim_due(QueueName::PollsNow, now, lease, 1000)
            .await
            .unwrap();
        for claim in rest.claims {
            *published.entry(claim.subject).or_insert(0) += 1;
        }
        for subject in &subjects {
            let times = published.get(subject).copied().unwrap_or(0);
            let allowed = crashes.get(subject).copied().unwrap_or(0);
            assert!(
                (1..=1 + allowed).contains(&times),
                "seed {seed}, {subject}: {times} times, {allowed} crashes"
            );
        }
        store.commit(&[due(None)]).await.unwrap();
    }
    drop(storage);
}
