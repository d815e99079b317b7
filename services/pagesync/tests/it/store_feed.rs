//! The conformance suite of the trait `Store`, part 3: the values of the change feed, and the lists of
//! Pages by status, client and connection. Both backends must pass it.

use std::collections::BTreeSet;

use common::store::{
    Changes, Commit, Cursor, FeedEntry, PageIndex, PageWrite, Store, StoredPage, Versioned,
};
use model::field::FieldName;
use model::id::{PageId, UserId};
use model::page::{Observation, Page, Source, Status};
use model::time::{FacebookTime, HostTime};
use model::value::CanonicalValue;
use serde_json::json;

use crate::BACKEND;
use crate::store::{apply, load, write};
use crate::support::deployment::TestStorage;
use crate::support::page_id;

async fn entries(store: &dyn Store, after: Option<&Cursor>) -> Vec<FeedEntry> {
    match store.changes_after(after, 1000).await.unwrap() {
        Changes::Entries(entries) => entries.into_iter().map(|(_, entry)| entry).collect(),
        Changes::Trimmed(cursor) => panic!("trimmed up to {cursor}"),
    }
}

/// Returns a commit that writes a Page without a change of a field.
fn set(id: &PageId, expected: u64, page: Page) -> Commit {
    let write = PageWrite {
        id: id.clone(),
        expected,
        page,
        changes: Vec::new(),
        received_at: HostTime(9),
    };
    Commit {
        page: Some(write),
        ..Commit::default()
    }
}

#[tokio::test]
async fn an_entry_has_the_values_before_and_after_until_its_page_is_erased() {
    let (storage, store) = TestStorage::new(BACKEND).await.into_store();
    assert_eq!(store.newest_cursor().await.unwrap().position, 0);
    apply(&*store, write(&page_id(1), 0, "planted before", 5)).await;
    apply(&*store, write(&page_id(2), 0, "other", 6)).await;
    let Versioned {
        value: StoredPage::Page(mut page),
        ..
    } = load(&*store, &page_id(1)).await
    else {
        panic!("a Page")
    };
    let changes = crate::store::apply_name(&mut page, "planted after", 7);
    let mut commit = set(&page_id(1), 1, *page);
    commit.page.as_mut().unwrap().changes = changes;
    apply(&*store, commit).await;
    let feed = entries(&*store, None).await;
    let change = &feed[2].changes.as_ref().unwrap()[0];
    assert_eq!(
        (&change.before, &change.after, change.source),
        (
            &json!("planted before"),
            &json!("planted after"),
            Source::Webhook
        )
    );
    assert_eq!(feed[2].status, Some(Status::Active));
    let cursor = store.newest_cursor().await.unwrap();
    assert_eq!(cursor.position, 3);

    let erased = Page {
        status: Status::Erased,
        ..Page::default()
    };
    apply(&*store, set(&page_id(1), 2, erased)).await;
    store.forget_erased_changes().await.unwrap();
    let after = entries(&*store, Some(&cursor)).await;
    assert_eq!((after.len(), after[0].status), (1, Some(Status::Erased)));
    let feed = entries(&*store, None).await;
    assert_eq!(feed.len(), 4, "the entries remain");
    assert_eq!((&feed[0].changes, &feed[2].changes), (&None, &None));
    assert_eq!(
        feed[1].changes.as_ref().unwrap()[0].after,
        "other",
        "the values of other Pages remain"
    );
    store.scrub().await.unwrap();
    let stored = storage.everything_stored().await;
    assert!(!stored.contains("planted"), "a value of the erased Page");
}

#[tokio::test]
async fn a_change_of_only_the_status_of_a_stored_page_is_an_entry() {
    let (_storage, store) = TestStorage::new(BACKEND).await.into_store();
    let with = |status| Page {
        status,
        ..Page::default()
    };
    let id = page_id(1);
    apply(&*store, set(&id, 0, with(Status::Active))).await;
    apply(&*store, set(&id, 1, with(Status::Active))).await;
    assert_eq!(entries(&*store, None).await, []);
    apply(&*store, set(&id, 2, with(Status::NeedsLogin))).await;
    let feed = entries(&*store, None).await;
    assert_eq!(feed.len(), 1);
    assert_eq!(
        (feed[0].version, feed[0].status, feed[0].source),
        (3, Some(Status::NeedsLogin), None)
    );
    assert_eq!(feed[0].changes.as_deref(), Some(&[][..]));
}

#[tokio::test]
async fn a_move_to_another_client_is_an_entry_with_both_clients() {
    let (_storage, store) = TestStorage::new(BACKEND).await.into_store();
    let of = |client: Option<&str>| Page {
        client: client.map(ToOwned::to_owned),
        ..Page::default()
    };
    let id = page_id(1);
    for (expected, client) in [None, Some("acme"), Some("acme"), Some("globex"), None]
        .into_iter()
        .enumerate()
    {
        let commit = set(&id, u64::try_from(expected).unwrap(), of(client));
        apply(&*store, commit).await;
    }
    let feed = entries(&*store, None).await;
    let moves: Vec<(Option<&str>, Option<&str>)> = feed
        .iter()
        .map(|entry| (entry.former_client.as_deref(), entry.client.as_deref()))
        .collect();
    assert_eq!(
        moves,
        [
            (Some(""), Some("acme")),
            (Some("acme"), Some("globex")),
            (Some("globex"), None),
        ]
    );
}

#[tokio::test]
async fn an_entry_of_a_newer_version_does_not_block_the_feed() {
    let (storage, store) = TestStorage::new(BACKEND).await.into_store();
    apply(&*store, write(&page_id(1), 0, "one", 5)).await;
    apply(&*store, write(&page_id(2), 0, "two", 6)).await;
    storage
        .replace_feed_entry(
            2,
            r#"{"page":"2","version":1,"status":"of the future","received_at":6}"#,
        )
        .await;
    let feed = entries(&*store, None).await;
    assert_eq!(feed[0].changes.as_ref().unwrap()[0].after, "one");
    assert_eq!(
        (&feed[1].page, feed[1].status, &feed[1].changes),
        (&page_id(2), None, &None)
    );
    let far = Cursor {
        position: u64::MAX,
        ..store.newest_cursor().await.unwrap()
    };
    let trimmed = store.changes_after(Some(&far), 9).await.unwrap();
    assert!(matches!(trimmed, Changes::Trimmed(_)));
}

#[tokio::test]
async fn pages_are_listed_by_status_client_and_connection() {
    let (_storage, store) = TestStorage::new(BACKEND).await.into_store();
    let user = |n: u64| UserId::parse(&n.to_string()).unwrap();
    let page = |client: Option<&str>, people: &[u64], status| Page {
        client: client.map(ToOwned::to_owned),
        connections: people.iter().map(|n| user(*n)).collect(),
        status,
        ..Page::default()
    };
    let active = Status::Active;
    for (n, client, people) in [
        (1, Some("Änne & Söhne"), &[7, 70][..]),
        (2, Some("Änne & Söhne"), &[7]),
        (3, Some("Änne"), &[70]),
        (4, None, &[]),
    ] {
        apply(&*store, set(&page_id(n), 0, page(client, people, active))).await;
    }
    let listed = async |index: PageIndex| -> Vec<u64> {
        let (mut after, mut all) = (None, Vec::new());
        loop {
            // Two at a time, so that a list has several chunks.
            let chunk = store.list_pages(&index, after.as_ref(), 2).await.unwrap();
            let Some((last, _)) = chunk.last() else {
                return all;
            };
            after = Some(last.clone());
            all.extend(
                chunk
                    .iter()
                    .map(|(id, _)| id.as_str().parse::<u64>().unwrap()),
            );
        }
    };
    let client = |name: &str| PageIndex::Client(name.to_owned());
    assert_eq!(listed(PageIndex::All).await, [1, 2, 3, 4]);
    assert_eq!(listed(client("Änne & Söhne")).await, [1, 2]);
    assert_eq!(listed(client("Änne")).await, [3]);
    assert_eq!(listed(client("Än")).await, [0; 0]);
    assert_eq!(listed(PageIndex::Connection(user(7))).await, [1, 2]);
    assert_eq!(listed(PageIndex::Connection(user(70))).await, [1, 3]);

    // The Page changes client, people and status. Another one is erased.
    let moved = page(Some("Änne"), &[70, 8], Status::NeedsLogin);
    apply(&*store, set(&page_id(1), 1, moved)).await;
    apply(
        &*store,
        set(&page_id(3), 1, page(None, &[], Status::Erased)),
    )
    .await;
    assert_eq!(listed(client("Änne & Söhne")).await, [2]);
    assert_eq!(listed(client("Änne")).await, [1]);
    let people = BTreeSet::from([7, 8, 70].map(user));
    let mut of_people = Vec::new();
    for user in people {
        of_people.push(listed(PageIndex::Connection(user)).await);
    }
    assert_eq!(of_people, [vec![2], vec![1], vec![1]]);
    assert_eq!(listed(PageIndex::Status(active)).await, [2, 4]);
    assert_eq!(listed(PageIndex::Status(Status::NeedsLogin)).await, [1]);
}

#[tokio::test]
async fn unpublished_pages_are_listed_until_they_are_published_or_erased() {
    let (_storage, store) = TestStorage::new(BACKEND).await.into_store();
    let page = |is_published: Option<bool>| {
        let mut page = Page::default();
        if let Some(is_published) = is_published {
            page.apply_observation(&Observation {
                field: FieldName::parse("is_published").unwrap(),
                value: CanonicalValue::from_json(&json!(is_published)),
                stamp: FacebookTime(1),
                source: Source::Poll,
            });
        }
        page
    };
    let listed = async || {
        let listed = store.list_pages(&PageIndex::Unpublished, None, 9).await;
        let ids = listed.unwrap().into_iter().map(|(id, _)| id.to_string());
        ids.collect::<Vec<_>>()
    };
    for (n, is_published) in [
        (1, Some(false)),
        (2, Some(true)),
        (3, None),
        (4, Some(false)),
    ] {
        apply(&*store, set(&page_id(n), 0, page(is_published))).await;
    }
    assert_eq!(listed().await, ["1", "4"]);
    // What an earlier version has written is corrected once a day.
    store.correct_page_indexes().await.unwrap();
    assert_eq!(listed().await, ["1", "4"]);
    apply(&*store, set(&page_id(1), 1, page(Some(true)))).await;
    apply(&*store, set(&page_id(2), 1, page(Some(false)))).await;
    let erased = Page {
        status: Status::Erased,
        ..page(Some(false))
    };
    apply(&*store, set(&page_id(4), 1, erased)).await;
    assert_eq!(listed().await, ["2"]);
}
