//! Compares what each statement of the embedded queue and store costs with few and with many rows.
//!
//! Invariant: the cost of a statement depends on the rows that it returns or changes, and not on
//! the rows that wait or are stored beside them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::id::{PageId, Subject, UserId};
use model::job::{Job, Unreadable};
use model::page::{Page, Status};
use model::queue_name::QueueName;
use model::time::HostTime;
use rusqlite::Connection;
use serde_json::json;

use crate::clock::Clock;
use crate::database::{Access, Database, steps};
use crate::queue::Queue;
use crate::queue::embedded::EmbeddedQueue;
use crate::store::embedded::EmbeddedStore;
use crate::store::{
    Commit, DueWrite, PageIndex, PageWrite, RecordGuard, RecordKey, RecordKind, RecordWrite, Store,
};

const NOW: HostTime = HostTime(1_790_000_000_000);

/// Inserts `rows` rows into every table.
fn fill(connection: &Connection, rows: u32) -> rusqlite::Result<()> {
    let numbers = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows})"
    );
    let attributes = crate::store::codec::encode(&Page::default());
    let attributes = serde_json::to_string(&attributes).unwrap_or_default();
    for (insert, select) in [
        (
            "messages (queue, attempt, body)",
            "'webhooks', 0, CAST('[]' AS BLOB)".to_owned(),
        ),
        (
            "messages (queue, attempt, body)",
            "'polls_now', 0, CAST('[]' AS BLOB)".to_owned(),
        ),
        (
            "pages (id, version, attributes)",
            format!("CAST(n AS TEXT), 1, '{attributes}'"),
        ),
        (
            "history (page, n, entry)",
            "CAST(n AS TEXT), 1, '{}'".to_owned(),
        ),
        (
            "feed (entry)",
            r#"'{"page":"1","version":1,"fields":[],"source":"poll","received_at":1}'"#.to_owned(),
        ),
        (
            "records (kind, id, version, body)",
            "'probe', CAST(n AS TEXT), 1, '1'".to_owned(),
        ),
        (
            "records (kind, id, version, body, expires)",
            "'login', CAST(n AS TEXT), 1, '1', 1 + n".to_owned(),
        ),
        (
            "due (subject, queue, at)",
            "'page:' || n, 'polls_now', n".to_owned(),
        ),
    ] {
        connection.execute_batch(&format!(
            "{numbers} INSERT INTO {insert} SELECT {select} FROM numbers"
        ))?;
    }
    Ok(())
}

/// Executes every operation of the queue.
async fn use_queue(queue: &EmbeddedQueue) {
    let job = Job::Unreadable(Unreadable {
        body: b"x".to_vec(),
        reason: "a test".to_owned(),
        received_at: NOW,
    });
    for queue_name in [QueueName::Webhooks, QueueName::PollsNow] {
        queue
            .publish(queue_name, std::slice::from_ref(&job))
            .await
            .unwrap();
        queue
            .receive(queue_name)
            .await
            .unwrap()
            .ack()
            .await
            .unwrap();
        drop(queue.receive(queue_name).await.unwrap());
        let _held = queue.receive(queue_name).await.unwrap();
        queue.requeue(queue_name).await.unwrap();
        queue.depth(queue_name).await.unwrap();
    }
}

/// Executes every operation of the store.
async fn use_store(store: &EmbeddedStore) {
    let id = PageId::parse("500").unwrap();
    let probe = |id: &str| RecordKey::new(RecordKind::Probe, id);
    let commit = Commit {
        page: Some(PageWrite {
            id: id.clone(),
            expected: 1,
            page: Page::default(),
            changes: Vec::new(),
            received_at: NOW,
        }),
        records: vec![
            RecordWrite::Put {
                key: probe("1"),
                body: json!(1),
                expected: Some(1),
                ttl: Some(Duration::from_secs(9)),
            },
            RecordWrite::Delete {
                key: probe("2"),
                expected: None,
            },
            RecordWrite::Add {
                key: probe("3"),
                n: 1,
            },
        ],
        guards: vec![RecordGuard {
            key: probe("4"),
            version: 1,
        }],
        due: vec![
            DueWrite {
                subject: Subject::Page(id.clone()),
                due: Some((QueueName::PollsDaily, NOW)),
            },
            DueWrite {
                subject: Subject::App,
                due: None,
            },
        ],
    };
    store.commit(&[commit]).await.unwrap();
    store.load_pages(std::slice::from_ref(&id)).await.unwrap();
    for index in [
        PageIndex::All,
        PageIndex::Status(Status::Active),
        PageIndex::Client("c".to_owned()),
        PageIndex::Connection(UserId::parse("7").unwrap()),
    ] {
        store.list_pages(&index, Some(&id), 10).await.unwrap();
    }
    store.newest_cursor().await.unwrap();
    store.history(&id).await.unwrap_err();
    store.changes_after(None, 10).await.unwrap();
    store.load_record(&probe("7")).await.unwrap();
    store
        .list_records(RecordKind::Probe, Some("7"), 10)
        .await
        .unwrap();
    let lease = Duration::from_secs(900);
    store
        .claim_due(QueueName::PollsNow, NOW, lease, 10)
        .await
        .unwrap();
    store.next_due(QueueName::PollsNow, 10).await.unwrap();
    store.check().await.unwrap();
}

/// Returns the steps of each statement with `rows` rows in every table.
async fn measure(rows: u32) -> BTreeMap<String, u64> {
    let directory = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::open(directory.path(), Access::Exclusive).unwrap());
    database
        .write(move |connection| fill(connection, rows))
        .await
        .unwrap();
    let queue = EmbeddedQueue::open(database.clone(), Access::Exclusive)
        .await
        .unwrap();
    steps::take(directory.path());
    use_queue(&queue).await;
    use_store(&EmbeddedStore::new(database, Clock::manual(NOW))).await;
    let mut steps = steps::take(directory.path());
    // The writer executes this one whenever it has nothing else to do.
    steps.remove("PRAGMA freelist_count");
    steps
}

#[tokio::test]
async fn no_statement_costs_more_because_more_rows_wait() {
    let few = measure(1_000).await;
    let many = measure(100_000).await;
    assert!(few.len() > 25, "{few:#?}");
    for (statement, steps) in &few {
        // A search in a larger index may take a few steps more.
        let bound = steps * 2;
        let with_many = many.get(statement).copied().unwrap_or(0);
        assert!(
            with_many <= bound,
            "{with_many} steps instead of {steps}: {statement}"
        );
    }
    let new: Vec<_> = many
        .keys()
        .filter(|text| !few.contains_key(*text))
        .collect();
    assert!(new.is_empty(), "{new:#?}");
}
