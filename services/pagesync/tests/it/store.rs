//! What every store must do.

use std::collections::BTreeSet;
use std::time::Duration;

use common::pages::registration;
use common::store::{
    Changes, Commit, Cursor, DueWrite, HISTORY, Key, Kind, Outcome, PageWrite, RecordWrite, Store,
    Stored, Versioned,
};
use futures_util::future::join_all;
use model::field::FieldName;
use model::id::{PageId, Subject};
use model::job::Lane;
use model::page::{Observation, Page, Source, Status};
use model::time::Millis;
use model::value::Canonical;
use serde_json::{Value as Json, json};

use crate::BACKEND;
use crate::support::deployment::Place;
use crate::support::{eventually, page_id};

fn named(page: &mut Page, name: &str, stamp: u64) -> Vec<model::page::Change> {
    let seen = Observation {
        field: FieldName::parse("name").unwrap(),
        value: Canonical::of(&json!(name)),
        stamp: Millis(stamp),
        source: Source::Webhook,
    };
    page.observe(&seen).into_iter().collect()
}

fn write(id: &PageId, expected: u64, name: &str, stamp: u64) -> Commit {
    let mut page = Page::default();
    let changes = named(&mut page, name, stamp);
    let page = PageWrite {
        id: id.clone(),
        expected,
        page,
        changes,
        at: Millis(stamp),
    };
    Commit {
        page: Some(page),
        ..Commit::default()
    }
}

async fn one(store: &dyn Store, id: &PageId) -> Versioned<Stored> {
    store
        .load(std::slice::from_ref(id))
        .await
        .unwrap()
        .pop()
        .unwrap()
}

async fn applied(store: &dyn Store, commit: Commit) {
    assert_eq!(store.commit(&[commit]).await.unwrap(), [Outcome::Applied]);
}

fn put(id: &str, body: Json) -> RecordWrite {
    RecordWrite::Put {
        key: Key::new(Kind::DeadLetter, id),
        body,
        expected: None,
        ttl: None,
    }
}

#[tokio::test]
async fn a_commit_is_read_back_and_counts_its_version() {
    let store = Place::new(BACKEND).await.into_store();
    let id = page_id(1);
    assert_eq!(
        one(&*store.1, &id).await,
        Versioned {
            version: 0,
            value: Stored::Unknown
        }
    );
    applied(&*store.1, write(&id, 0, "first", 10)).await;
    applied(&*store.1, write(&id, 1, "second", 20)).await;
    let Versioned {
        version,
        value: Stored::Page(page),
    } = one(&*store.1, &id).await
    else {
        panic!("a Page")
    };
    assert_eq!(version, 2);
    assert_eq!(
        page.registers.values().next().unwrap().value,
        Canonical::of(&json!("second"))
    );
    let history = store.1.history(&id).await.unwrap();
    assert_eq!(
        history
            .iter()
            .map(|entry| entry.after.clone())
            .collect::<Vec<_>>(),
        ["second", "first"]
    );
    assert_eq!(history[0].version, 2);
}

#[tokio::test]
async fn the_second_of_two_commits_on_one_version_is_stale_and_writes_nothing() {
    let store = Place::new(BACKEND).await.into_store();
    let id = page_id(1);
    let mut loser = write(&id, 0, "loser", 20);
    loser.records.push(put("loser", json!(1)));
    loser.due.push(DueWrite {
        subject: Subject::Page(id.clone()),
        due: Some((Lane::PollsNow, Millis(1))),
    });
    let outcomes = store
        .1
        .commit(&[write(&id, 0, "winner", 10), loser])
        .await
        .unwrap();
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Stale]);
    assert_eq!(one(&*store.1, &id).await.version, 1);
    assert_eq!(
        store
            .1
            .record(&Key::new(Kind::DeadLetter, "loser"))
            .await
            .unwrap(),
        None
    );
    assert_eq!(store.1.due(Lane::PollsNow, 10).await.unwrap(), []);
    assert_eq!(store.1.history(&id).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_on_one_page_lose_no_write() {
    const EACH: u64 = 40;
    let store = Place::new(BACKEND).await.into_store();
    let id = page_id(1);
    applied(&*store.1, registration(&id, 0, Millis(1))).await;
    let writer = |offset: u64| {
        let (store, id) = (store.1.clone(), id.clone());
        tokio::spawn(async move {
            for n in 0..EACH {
                loop {
                    let Versioned {
                        version,
                        value: Stored::Page(mut page),
                    } = one(&*store, &id).await
                    else {
                        panic!("a Page")
                    };
                    let field = FieldName::parse(&format!("w{offset}_{n}")).unwrap();
                    let value = Canonical::of(&json!(n));
                    let seen = Observation {
                        field,
                        value,
                        stamp: Millis(n + 1),
                        source: Source::Poll,
                    };
                    let changes = page.observe(&seen).into_iter().collect();
                    let write = PageWrite {
                        id: id.clone(),
                        expected: version,
                        page: *page,
                        changes,
                        at: Millis(n),
                    };
                    let commit = Commit {
                        page: Some(write),
                        ..Commit::default()
                    };
                    if store.commit(&[commit]).await.unwrap() == [Outcome::Applied] {
                        break;
                    }
                }
            }
        })
    };
    for ended in join_all([writer(0), writer(1)]).await {
        ended.unwrap();
    }
    let Versioned {
        version,
        value: Stored::Page(page),
    } = one(&*store.1, &id).await
    else {
        panic!("a Page")
    };
    assert_eq!(
        (version, page.registers.len() as u64),
        (1 + 2 * EACH, 2 * EACH)
    );
    assert_eq!(store.1.history(&id).await.unwrap().len(), HISTORY);
    let Changes::Entries(feed) = store.1.changes_after(None, 1000).await.unwrap() else {
        panic!("entries")
    };
    let versions: Vec<u64> = feed.iter().map(|(_, entry)| entry.version).collect();
    assert_eq!(
        versions,
        (2..=1 + 2 * EACH).collect::<Vec<_>>(),
        "one feed entry a version, in order"
    );
}

#[tokio::test]
async fn a_guard_on_another_version_stops_the_whole_commit() {
    let store = Place::new(BACKEND).await.into_store();
    let (id, key) = (page_id(1), Key::new(Kind::DeadLetter, "epoch"));
    applied(
        &*store.1,
        Commit {
            records: vec![put("epoch", json!("a"))],
            ..Commit::default()
        },
    )
    .await;
    let guarded = |version| Commit {
        guards: vec![(key.clone(), version)],
        ..write(&id, 0, "n", 1)
    };
    assert_eq!(
        store.1.commit(&[guarded(2)]).await.unwrap(),
        [Outcome::Stale]
    );
    assert_eq!(one(&*store.1, &id).await.version, 0);
    assert_eq!(
        store.1.commit(&[guarded(1)]).await.unwrap(),
        [Outcome::Applied]
    );
    assert_eq!(one(&*store.1, &id).await.version, 1);
    let absent = (Key::new(Kind::DeadLetter, "none"), 0);
    applied(
        &*store.1,
        Commit {
            guards: vec![absent],
            ..write(&id, 1, "m", 2)
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_can_be_taken_by_one_only() {
    let store = Place::new(BACKEND).await.into_store();
    let key = Key::new(Kind::DeadLetter, "once");
    applied(
        &*store.1,
        Commit {
            records: vec![put("once", json!({"a": [1, null]}))],
            ..Commit::default()
        },
    )
    .await;
    let held = store.1.record(&key).await.unwrap().unwrap();
    assert_eq!(
        held,
        Versioned {
            version: 1,
            value: json!({"a": [1, null]})
        }
    );
    let takers = (0..10).map(|_| {
        let (store, key) = (store.1.clone(), key.clone());
        tokio::spawn(async move {
            let take = RecordWrite::Delete {
                key,
                expected: Some(1),
            };
            store
                .commit(&[Commit {
                    records: vec![take],
                    ..Commit::default()
                }])
                .await
                .unwrap()
        })
    });
    let outcomes: Vec<Outcome> = join_all(takers)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == Outcome::Applied)
            .count(),
        1
    );
    assert_eq!(store.1.record(&key).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_expire_add_up_and_are_listed_in_order() {
    let store = Place::new(BACKEND).await.into_store();
    let brief = RecordWrite::Put {
        key: Key::new(Kind::DeadLetter, "b"),
        body: json!("brief"),
        expected: None,
        ttl: Some(Duration::from_millis(300)),
    };
    let records = vec![
        put("a", json!(1)),
        brief,
        put("c", json!(3)),
        put("d", json!(4)),
    ];
    applied(
        &*store.1,
        Commit {
            records,
            ..Commit::default()
        },
    )
    .await;
    let names = async |after: Option<&str>, limit| -> Vec<String> {
        let found = store
            .1
            .records(Kind::DeadLetter, after, limit)
            .await
            .unwrap();
        found.into_iter().map(|(key, _)| key.id).collect()
    };
    assert_eq!(names(None, 10).await, ["a", "b", "c", "d"]);
    eventually("the brief one to be gone", || async {
        let gone = store
            .1
            .record(&Key::new(Kind::DeadLetter, "b"))
            .await
            .unwrap()
            .is_none();
        gone.then_some(())
    })
    .await;
    assert_eq!(names(None, 2).await, ["a", "c"]);
    assert_eq!(names(Some("a"), 10).await, ["c", "d"]);
    let adders = (0..10).map(|_| {
        let store = store.1.clone();
        tokio::spawn(async move {
            let add = RecordWrite::Add {
                key: Key::new(Kind::DeadLetter, "n"),
                n: 3,
            };
            applied(
                &*store,
                Commit {
                    records: vec![add],
                    ..Commit::default()
                },
            )
            .await;
        })
    });
    join_all(adders).await.into_iter().for_each(Result::unwrap);
    let sum = store
        .1
        .record(&Key::new(Kind::DeadLetter, "n"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        sum,
        Versioned {
            version: 10,
            value: json!(30)
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_is_claimed_once_and_again_after_a_crash() {
    const PAGES: u64 = 300;
    let store = Place::new(BACKEND).await.into_store();
    let due = |n: u64, at: u64| Commit {
        due: vec![DueWrite {
            subject: Subject::Page(page_id(n)),
            due: Some((Lane::PollsNow, Millis(at))),
        }],
        ..Commit::default()
    };
    let commits: Vec<Commit> = (1..=PAGES).map(|n| due(n, 1000 + n)).collect();
    store.1.commit(&commits).await.unwrap();
    let (now, lease) = (Millis(5000), Duration::from_secs(900));
    let claim_all = |now: Millis| {
        let claimers = (0..3).map(|_| {
            let store = store.1.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let claims = store
                        .claim_due(Lane::PollsNow, now, lease, 7)
                        .await
                        .unwrap();
                    if claims.is_empty() {
                        return mine;
                    }
                    mine.extend(claims);
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
        "each once"
    );
    assert!(
        claims
            .iter()
            .all(|claim| claim.due.0 > 1000 && claim.due.0 <= 1000 + PAGES)
    );
    // Of three claimers one does its work; the others crash before they publish.
    let done: Vec<Commit> = (1..=100).map(|n| due(n, 10_000_000)).collect();
    store.1.commit(&done).await.unwrap();
    let again = claim_all(now.plus(lease))
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .count();
    assert_eq!(again as u64, PAGES - 100);
    let forget = DueWrite {
        subject: Subject::Page(page_id(1)),
        due: None,
    };
    let daily = DueWrite {
        subject: Subject::Page(page_id(2)),
        due: Some((Lane::PollsDaily, Millis(5))),
    };
    applied(
        &*store.1,
        Commit {
            due: vec![forget, daily],
            ..Commit::default()
        },
    )
    .await;
    assert_eq!(
        store.1.due(Lane::PollsDaily, 9).await.unwrap(),
        [(Subject::Page(page_id(2)), Millis(5))]
    );
    assert_eq!(
        store.1.due(Lane::PollsNow, 1000).await.unwrap().len() as u64,
        PAGES - 2
    );
}

#[tokio::test]
async fn a_feed_reader_sees_each_change_once_or_learns_of_a_gap() {
    let (place, store) = Place::new(BACKEND).await.into_store();
    for n in 1..=6 {
        applied(&*store, write(&page_id(n), 0, "n", n)).await;
    }
    let read = async |cursor: Option<Cursor>, limit| match store
        .changes_after(cursor.as_ref(), limit)
        .await
        .unwrap()
    {
        Changes::Entries(entries) => entries,
        Changes::Gap(cursor) => panic!("a gap before {cursor}"),
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
    place.forget_feed_up_to(3).await;
    assert!(
        matches!(store.changes_after(Some(&cursor), 9).await.unwrap(), Changes::Gap(to) if to.n == 6)
    );
    let kept = Cursor {
        n: 3,
        ..cursor.clone()
    };
    assert_eq!(read(Some(kept), 100).await.len(), 3);
    let other = Cursor {
        epoch: "another".to_owned(),
        n: 6,
    };
    assert!(matches!(
        store.changes_after(Some(&other), 9).await.unwrap(),
        Changes::Gap(_)
    ));
    let ahead = Cursor { n: 7, ..cursor };
    assert!(matches!(
        store.changes_after(Some(&ahead), 9).await.unwrap(),
        Changes::Gap(_)
    ));
}

#[tokio::test]
async fn a_corrupt_page_is_isolated_and_can_be_written_over() {
    let (place, store) = Place::new(BACKEND).await.into_store();
    for n in 1..=3 {
        applied(&*store, write(&page_id(n), 0, "good", n)).await;
    }
    place.corrupt(&page_id(2)).await;
    let ids = [page_id(1), page_id(2), page_id(3)];
    let held = store.load(&ids).await.unwrap();
    assert!(matches!(held[0].value, Stored::Page(_)) && matches!(held[2].value, Stored::Page(_)));
    let Stored::Corrupt(corrupt) = &held[1].value else {
        panic!("{:?}", held[1])
    };
    assert!(
        corrupt.reason.contains("cannot be read"),
        "{}",
        corrupt.reason
    );
    assert_eq!(
        held[1].version, 1,
        "the version lives outside of what was damaged"
    );
    applied(&*store, write(&page_id(2), 1, "again", 9)).await;
    assert!(matches!(
        one(&*store, &page_id(2)).await.value,
        Stored::Page(_)
    ));
}

#[tokio::test]
async fn pages_are_listed_in_order_and_a_forgotten_one_keeps_only_its_tombstone() {
    let store = Place::new(BACKEND).await.into_store();
    for n in [30, 4, 200] {
        applied(&*store.1, write(&page_id(n), 0, "secret", n)).await;
    }
    let ids = async |after: Option<&PageId>| -> Vec<String> {
        let pages = store.1.pages(after, 2).await.unwrap();
        pages.into_iter().map(|(id, _)| id.to_string()).collect()
    };
    assert_eq!(ids(None).await, ["200", "30"]);
    assert_eq!(ids(Some(&page_id(30))).await, ["4"]);
    let page = Page {
        status: Status::Forgotten,
        ..Page::default()
    };
    let forget = PageWrite {
        id: page_id(4),
        expected: 1,
        page: page.clone(),
        changes: Vec::new(),
        at: Millis(1),
    };
    applied(
        &*store.1,
        Commit {
            page: Some(forget),
            ..Commit::default()
        },
    )
    .await;
    assert_eq!(
        one(&*store.1, &page_id(4)).await,
        Versioned {
            version: 2,
            value: Stored::Page(Box::new(page))
        }
    );
    assert_eq!(store.1.history(&page_id(4)).await.unwrap(), []);
}

#[tokio::test]
async fn a_check_writes_and_names_the_epoch() {
    let store = Place::new(BACKEND).await.into_store();
    let first = store.1.check().await.unwrap();
    assert_eq!(first.refusals, [] as [String; 0]);
    assert_eq!(store.1.check().await.unwrap().epoch, first.epoch);
    assert!(!first.epoch.is_empty());
}
