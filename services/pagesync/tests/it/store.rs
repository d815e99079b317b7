//! The conformance suite of the trait `Store`, part 1: commits, guards and records. Both backends
//! must pass it.

use std::time::Duration;

use common::pages::registration_commit;
use common::store::{
    Changes, Commit, CommitOutcome, DueWrite, MAX_HISTORY, PageWrite, RecordGuard, RecordKey,
    RecordKind, RecordWrite, Store, StoredPage, Versioned, load_page,
};
use futures_util::future::join_all;
use model::field::FieldName;
use model::id::{PageId, Subject};
use model::page::{Observation, Page, Source};
use model::queue_name::QueueName;
use model::time::{FacebookTime, HostTime};
use model::value::CanonicalValue;
use serde_json::{Value as Json, json};

use crate::BACKEND;
use crate::support::deployment::TestStorage;
use crate::support::{eventually, page_id};

/// Applies a webhook that sets the name of the Page at `stamp`. Returns the changes.
pub(crate) fn apply_name(page: &mut Page, name: &str, stamp: u64) -> Vec<model::page::Change> {
    let observation = Observation {
        field: FieldName::parse("name").unwrap(),
        value: CanonicalValue::from_json(&json!(name)),
        stamp: FacebookTime(stamp),
        source: Source::Webhook,
    };
    page.apply_observation(&observation).into_iter().collect()
}

/// Returns a commit that writes a Page with a name and no other field.
pub(crate) fn write(id: &PageId, expected: u64, name: &str, stamp: u64) -> Commit {
    let mut page = Page::default();
    let changes = apply_name(&mut page, name, stamp);
    let page = PageWrite {
        id: id.clone(),
        expected,
        page,
        changes,
        received_at: HostTime(stamp),
    };
    Commit {
        page: Some(page),
        ..Commit::default()
    }
}

/// Loads one Page.
pub(crate) async fn load(store: &dyn Store, id: &PageId) -> Versioned<StoredPage> {
    load_page(store, id).await.unwrap()
}

/// Makes a commit. Panics unless it is applied.
pub(crate) async fn apply(store: &dyn Store, commit: Commit) {
    assert_eq!(
        store.commit(&[commit]).await.unwrap(),
        [CommitOutcome::Applied]
    );
}

/// Returns a write of a record that does not expire.
fn put(id: &str, body: Json) -> RecordWrite {
    RecordWrite::Put {
        key: RecordKey::new(RecordKind::DeadLetter, id),
        body,
        expected: None,
        ttl: None,
    }
}

#[tokio::test]
async fn a_committed_page_is_read_back_and_each_commit_raises_its_version() {
    let store = TestStorage::new(BACKEND).await.into_store();
    let id = page_id(1);
    assert_eq!(
        load(&*store.1, &id).await,
        Versioned {
            version: 0,
            value: StoredPage::Unknown
        }
    );
    apply(&*store.1, write(&id, 0, "first", 10)).await;
    apply(&*store.1, write(&id, 1, "second", 20)).await;
    let Versioned {
        version,
        value: StoredPage::Page(page),
    } = load(&*store.1, &id).await
    else {
        panic!("a Page")
    };
    assert_eq!(version, 2);
    assert_eq!(
        page.registers.values().next().unwrap().value,
        CanonicalValue::from_json(&json!("second"))
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
async fn the_second_of_two_commits_to_one_version_is_stale_and_writes_nothing() {
    let store = TestStorage::new(BACKEND).await.into_store();
    let id = page_id(1);
    let mut loser = write(&id, 0, "loser", 20);
    loser.records.push(put("loser", json!(1)));
    loser.due.push(DueWrite {
        subject: Subject::Page(id.clone()),
        due: Some((QueueName::PollsNow, HostTime(1))),
    });
    let outcomes = store
        .1
        .commit(&[write(&id, 0, "winner", 10), loser])
        .await
        .unwrap();
    assert_eq!(outcomes, [CommitOutcome::Applied, CommitOutcome::Stale]);
    assert_eq!(load(&*store.1, &id).await.version, 1);
    assert_eq!(
        store
            .1
            .load_record(&RecordKey::new(RecordKind::DeadLetter, "loser"))
            .await
            .unwrap(),
        None
    );
    assert_eq!(store.1.next_due(QueueName::PollsNow, 10).await.unwrap(), []);
    assert_eq!(store.1.history(&id).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_writers_of_one_page_lose_no_write() {
    const WRITES: u64 = 40;
    let store = TestStorage::new(BACKEND).await.into_store();
    let id = page_id(1);
    apply(&*store.1, registration_commit(&id, 0, HostTime(1))).await;
    let writer = |offset: u64| {
        let (store, id) = (store.1.clone(), id.clone());
        tokio::spawn(async move {
            for n in 0..WRITES {
                loop {
                    let Versioned {
                        version,
                        value: StoredPage::Page(mut page),
                    } = load(&*store, &id).await
                    else {
                        panic!("a Page")
                    };
                    let field = FieldName::parse(&format!("w{offset}_{n}")).unwrap();
                    let value = CanonicalValue::from_json(&json!(n));
                    let observation = Observation {
                        field,
                        value,
                        stamp: FacebookTime(n + 1),
                        source: Source::Poll,
                    };
                    let changes = page.apply_observation(&observation).into_iter().collect();
                    let write = PageWrite {
                        id: id.clone(),
                        expected: version,
                        page: *page,
                        changes,
                        received_at: HostTime(n),
                    };
                    let commit = Commit {
                        page: Some(write),
                        ..Commit::default()
                    };
                    if store.commit(&[commit]).await.unwrap() == [CommitOutcome::Applied] {
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
        value: StoredPage::Page(page),
    } = load(&*store.1, &id).await
    else {
        panic!("a Page")
    };
    assert_eq!(
        (version, page.registers.len() as u64),
        (1 + 2 * WRITES, 2 * WRITES)
    );
    assert_eq!(store.1.history(&id).await.unwrap().len(), MAX_HISTORY);
    let Changes::Entries(feed) = store.1.changes_after(None, 1000).await.unwrap() else {
        panic!("entries")
    };
    let versions: Vec<u64> = feed.iter().map(|(_, entry)| entry.version).collect();
    assert_eq!(
        versions,
        (2..=1 + 2 * WRITES).collect::<Vec<_>>(),
        "the feed has one entry for each version, in order"
    );
}

#[tokio::test]
async fn a_guard_with_another_version_makes_the_whole_commit_stale() {
    let store = TestStorage::new(BACKEND).await.into_store();
    let (id, key) = (page_id(1), RecordKey::new(RecordKind::DeadLetter, "epoch"));
    apply(
        &*store.1,
        Commit {
            records: vec![put("epoch", json!("a"))],
            ..Commit::default()
        },
    )
    .await;
    let guarded = |version| Commit {
        guards: vec![RecordGuard {
            key: key.clone(),
            version,
        }],
        ..write(&id, 0, "n", 1)
    };
    assert_eq!(
        store.1.commit(&[guarded(2)]).await.unwrap(),
        [CommitOutcome::Stale]
    );
    assert_eq!(load(&*store.1, &id).await.version, 0);
    assert_eq!(
        store.1.commit(&[guarded(1)]).await.unwrap(),
        [CommitOutcome::Applied]
    );
    assert_eq!(load(&*store.1, &id).await.version, 1);
    let absent = RecordGuard {
        key: RecordKey::new(RecordKind::DeadLetter, "none"),
        version: 0,
    };
    apply(
        &*store.1,
        Commit {
            guards: vec![absent],
            ..write(&id, 1, "m", 2)
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_deleted_at_its_expected_version_only_once() {
    let store = TestStorage::new(BACKEND).await.into_store();
    let key = RecordKey::new(RecordKind::DeadLetter, "once");
    apply(
        &*store.1,
        Commit {
            records: vec![put("once", json!({"a": [1, null]}))],
            ..Commit::default()
        },
    )
    .await;
    let stored = store.1.load_record(&key).await.unwrap().unwrap();
    assert_eq!(
        stored,
        Versioned {
            version: 1,
            value: json!({"a": [1, null]})
        }
    );
    let deletions = (0..10).map(|_| {
        let (store, key) = (store.1.clone(), key.clone());
        tokio::spawn(async move {
            let delete = RecordWrite::Delete {
                key,
                expected: Some(1),
            };
            store
                .commit(&[Commit {
                    records: vec![delete],
                    ..Commit::default()
                }])
                .await
                .unwrap()
        })
    });
    let outcomes: Vec<CommitOutcome> = join_all(deletions)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == CommitOutcome::Applied)
            .count(),
        1
    );
    assert_eq!(store.1.load_record(&key).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_expire_are_listed_in_order_and_count_concurrent_additions() {
    let store = TestStorage::new(BACKEND).await.into_store();
    let short_lived = RecordWrite::Put {
        key: RecordKey::new(RecordKind::DeadLetter, "b"),
        body: json!("short-lived"),
        expected: None,
        ttl: Some(Duration::from_secs(3)),
    };
    let records = vec![
        put("a", json!(1)),
        short_lived,
        put("c", json!(3)),
        put("d", json!(4)),
    ];
    apply(
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
            .list_records(RecordKind::DeadLetter, after, limit)
            .await
            .unwrap();
        found.into_iter().map(|(key, _)| key.id).collect()
    };
    assert_eq!(names(None, 10).await, ["a", "b", "c", "d"]);
    eventually("the record to expire", || async {
        let is_expired = store
            .1
            .load_record(&RecordKey::new(RecordKind::DeadLetter, "b"))
            .await
            .unwrap()
            .is_none();
        is_expired.then_some(())
    })
    .await;
    assert_eq!(names(None, 2).await, ["a", "c"]);
    assert_eq!(names(Some("a"), 10).await, ["c", "d"]);
    let additions = (0..10).map(|_| {
        let store = store.1.clone();
        tokio::spawn(async move {
            let add = RecordWrite::Add {
                key: RecordKey::new(RecordKind::DeadLetter, "n"),
                n: 3,
            };
            apply(
                &*store,
                Commit {
                    records: vec![add],
                    ..Commit::default()
                },
            )
            .await;
        })
    });
    join_all(additions)
        .await
        .into_iter()
        .for_each(Result::unwrap);
    let sum = store
        .1
        .load_record(&RecordKey::new(RecordKind::DeadLetter, "n"))
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
