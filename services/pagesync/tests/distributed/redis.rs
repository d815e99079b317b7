//! Tests of Redis: data that other clients read or write, unsafe settings, restarts, full memory
//! and flushed scripts.

use std::time::Duration;

use common::clock::Clock;
use common::pages::registration_commit;
use common::store::redis::client::RedisStore;
use common::store::redis::durability::Durability;
use common::store::{
    Commit, CommitOutcome, DueWrite, RecordKey, RecordKind, RecordWrite, Store, StoreError,
    StoredPage,
};
use model::id::Subject;
use model::queue_name::QueueName;
use model::time::HostTime;
use redis::Value;
use serde_json::json;

use crate::BACKEND;
use crate::support::deployment::{Deployment, TestStorage};
use crate::support::engine::{Server, ServerKind};
use crate::support::raw_access::redis_command;
use crate::support::servers::database;
use crate::support::{eventually, page_id};

/// Returns a reply as text.
fn text(value: Value) -> String {
    redis::from_redis_value(value).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_client_of_redis_can_read_the_name_of_a_page() {
    let deployment = Deployment::start(BACKEND).await;
    let id = page_id(1_170_558_113);
    deployment
        .register_without_read(std::slice::from_ref(&id))
        .await;
    let entry = json!({"id": id, "time": 1_750_000_000, "changes": [{"field": "name", "value": "Café \"Aurora\""}]});
    let body = simulator::delivery::delivery_body(&[entry]);
    assert_eq!(deployment.deliver(body).await, 200);
    deployment.wait_until_idle().await;
    let TestStorage::Distributed { redis, .. } = &deployment.storage else {
        unreachable!("distributed")
    };
    let name = redis_command(redis, &["HGET", "{pagesync}:page:1170558113", "name"]).await;
    assert_eq!(text(name), "Café \"Aurora\"");
    let shell = std::process::Command::new("redis-cli")
        .args([
            "-u",
            redis,
            "--raw",
            "HGET",
            "{pagesync}:page:1170558113",
            "name",
        ])
        .output();
    assert_eq!(
        String::from_utf8(shell.unwrap().stdout).unwrap().trim_end(),
        "Café \"Aurora\""
    );
    deployment.finish().await;
}

/// Another client flushes the scripts in a loop, so that a flush can happen between any two calls.
/// An earlier version wrote Pages without the indexes by status, or changed a status without moving
/// the Page.
#[tokio::test(flavor = "multi_thread")]
async fn the_counts_of_pages_by_status_are_corrected() {
    let storage = TestStorage::new(BACKEND).await;
    let TestStorage::Distributed { redis, .. } = &storage else {
        unreachable!()
    };
    let redis = redis.clone();
    let (_storage, store) = storage.into_store();
    for n in 1..=3 {
        let commit = registration_commit(&page_id(n), 0, HostTime(1));
        store.commit(&[commit]).await.unwrap();
    }
    let counted = async || {
        let counts = store.count_pages().await.unwrap();
        let all: u64 = counts.values().sum();
        (counts[&model::page::Status::Active], all)
    };
    assert_eq!(counted().await, (3, 3));
    redis_command(&redis, &["DEL", "{pagesync}:pages:active"]).await;
    redis_command(&redis, &["ZADD", "{pagesync}:pages:corrupt", "0", "2"]).await;
    redis_command(&redis, &["HSET", "{pagesync}:page:2", "_client", "acme"]).await;
    assert_eq!(counted().await, (0, 1));
    store.correct_page_indexes().await.unwrap();
    assert_eq!(counted().await, (3, 3));
    let index = common::store::PageIndex::Client("acme".to_owned());
    let of_client = store.list_pages(&index, None, 9).await.unwrap();
    assert_eq!(of_client.len(), 1);
    assert_eq!(of_client[0].0, page_id(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_can_be_flushed_at_any_time() {
    let storage = TestStorage::new(BACKEND).await;
    let store = storage.store();
    let TestStorage::Distributed { redis, .. } = &storage else {
        unreachable!("distributed")
    };
    let redis = redis.clone();
    let flushing = tokio::spawn(async move {
        loop {
            redis_command(&redis, &["SCRIPT", "FLUSH"]).await;
        }
    });
    for version in 0..200 {
        let commit = registration_commit(&page_id(1), version, HostTime(1));
        assert_eq!(
            store.commit(&[commit]).await.unwrap(),
            [CommitOutcome::Applied]
        );
        let lease = Duration::from_secs(60);
        let claims = store
            .claim_due(QueueName::PollsNow, HostTime(1), lease, 10)
            .await;
        claims.unwrap();
    }
    flushing.abort();
}

#[tokio::test]
async fn a_value_of_another_program_under_the_key_of_a_page_is_corrupt_and_can_be_overwritten() {
    let storage = TestStorage::new(BACKEND).await;
    let store = storage.store();
    let TestStorage::Distributed { redis, .. } = &storage else {
        unreachable!("distributed")
    };
    redis_command(redis, &["SET", "{pagesync}:page:1", "a string"]).await;
    redis_command(redis, &["HSET", "{pagesync}:page:2", "name", "no version"]).await;
    redis_command(
        redis,
        &[
            "HSET",
            "{pagesync}:page:3",
            "_version",
            "7",
            "_status",
            "active",
        ],
    )
    .await;
    for (page, version) in [(4, "x"), (5, "07")] {
        let commit = registration_commit(&page_id(page), 0, HostTime(1));
        store.commit(&[commit]).await.unwrap();
        let key = format!("{{pagesync}}:page:{page}");
        redis_command(redis, &["HSET", &key, "_version", version]).await;
    }
    let ids: Vec<_> = (1..=5).map(page_id).collect();
    let stored = store.load_pages(&ids).await.unwrap();
    assert!(
        stored
            .iter()
            .all(|stored| matches!(stored.value, StoredPage::Corrupt(_))),
        "{stored:?}"
    );
    assert_eq!(
        stored
            .iter()
            .map(|stored| stored.version)
            .collect::<Vec<_>>(),
        [0, 0, 7, 0, 0]
    );
    for (page, expected) in [(1, 0), (2, 0), (3, 7), (4, 0), (5, 0)] {
        let commit = registration_commit(&page_id(page), expected, HostTime(1));
        assert_eq!(
            store.commit(&[commit]).await.unwrap(),
            [CommitOutcome::Applied]
        );
    }
    assert_eq!(
        text(redis_command(redis, &["HEXISTS", "{pagesync}:page:2", "name"]).await),
        "0"
    );
}

/// Returns a commit that writes every kind of key.
fn complete_commit() -> Commit {
    let probe = |id: &str| RecordKey::new(RecordKind::Probe, id);
    Commit {
        records: vec![
            RecordWrite::Put {
                key: probe("1"),
                body: json!({"arrived_at": 1}),
                expected: None,
                ttl: Some(Duration::from_secs(600)),
            },
            RecordWrite::Add {
                key: probe("2"),
                n: 1,
            },
        ],
        due: vec![DueWrite {
            subject: Subject::Page(page_id(1)),
            due: Some((QueueName::PollsNow, HostTime(1))),
        }],
        ..crate::store::write(&page_id(1), 0, "name", 5)
    }
}

/// Another program has written a value of another type under a key that all commits share.
#[tokio::test]
async fn a_commit_writes_nothing_if_a_shared_key_has_another_type() {
    for (key, value) in [
        ("pages", "text"),
        ("feed", "text"),
        ("feed_position", "text"),
        ("records:probe", "text"),
        ("expiry:probe", "text"),
        ("due:polls_now", "text"),
        ("due:polls_daily", "text"),
    ] {
        let storage = TestStorage::new(BACKEND).await;
        let store = storage.store();
        let TestStorage::Distributed { redis, .. } = &storage else {
            unreachable!("distributed")
        };
        let key = format!("{{pagesync}}:{key}");
        redis_command(redis, &["SET", &key, value]).await;
        let result = store.commit(&[complete_commit()]).await;
        let Err(StoreError::Unavailable(reason)) = &result else {
            panic!("{key}: {result:?}")
        };
        assert!(reason.contains(&key), "{reason}");
        let keys = redis_command(redis, &["KEYS", "*"]).await;
        assert_eq!(
            keys,
            Value::Array(vec![Value::BulkString(key.clone().into_bytes())])
        );
        redis_command(redis, &["DEL", &key]).await;
        crate::store::apply(&*store, complete_commit()).await;
    }
}

/// Another program has written a value of another type under a key of one Page or record.
#[tokio::test]
async fn a_commit_replaces_a_key_of_one_page_or_record_that_has_another_type() {
    let storage = TestStorage::new(BACKEND).await;
    let store = storage.store();
    let TestStorage::Distributed { redis, .. } = &storage else {
        unreachable!("distributed")
    };
    for key in ["page:1", "history:1", "record:probe:1", "record:probe:2"] {
        redis_command(redis, &["SET", &format!("{{pagesync}}:{key}"), "text"]).await;
    }
    crate::store::apply(&*store, complete_commit()).await;
    assert_eq!(store.history(&page_id(1)).await.unwrap().len(), 1);
    let body = |id: &str| {
        let (store, key) = (store.clone(), RecordKey::new(RecordKind::Probe, id));
        async move { store.load_record(&key).await.unwrap().unwrap().value }
    };
    assert_eq!(body("1").await, json!({"arrived_at": 1}));
    // A number cannot be added to a value of another type, which stays as it is.
    assert!(body("2").await.is_string(), "{}", body("2").await);
    assert_eq!(
        text(redis_command(redis, &["GET", "{pagesync}:record:probe:2"]).await),
        "text"
    );
}

#[tokio::test]
async fn settings_that_lose_pages_are_refused_and_committed_pages_survive_a_restart() {
    let server = Server::start(ServerKind::Redis).await;
    let url = database(&server);
    let store = RedisStore::open(&url, Durability::Fsync, Clock::system()).unwrap();
    let health = store.check().await.unwrap();
    assert_eq!((health.errors, health.warnings), (Vec::new(), Vec::new()));
    redis_command(&url, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    redis_command(&url, &["CONFIG", "SET", "appendonly", "no"]).await;
    // Without an append-only file, Redis cannot confirm that a write is on disk, so the durability
    // `fsync` is refused.
    let errors = store.check().await.unwrap().errors;
    assert!(
        errors[0].contains("allkeys-lru") && errors[1].contains("appendonly yes"),
        "{errors:?}"
    );
    redis_command(&url, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    let written = store
        .commit(&[registration_commit(&page_id(101), 0, HostTime(1))])
        .await;
    assert!(
        matches!(written, Err(StoreError::Unavailable(_))),
        "{written:?}"
    );
    let relaxed = RedisStore::open(&url, Durability::Relaxed, Clock::system()).unwrap();
    redis_command(&url, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let health = relaxed.check().await.unwrap();
    assert!(
        health.errors[0].contains("allkeys-lru") && health.warnings[0].contains("append-only"),
        "{health:?}"
    );
    redis_command(&url, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    redis_command(&url, &["CONFIG", "SET", "appendonly", "yes"]).await;
    // Redis begins an append-only file with a rewrite, whose end a server without WAITAOF does not
    // report. A scrub waits for it.
    store.scrub().await.unwrap();

    let commits: Vec<Commit> = (1..=100)
        .map(|page| registration_commit(&page_id(page), 0, HostTime(1)))
        .collect();
    assert!(
        store
            .commit(&commits)
            .await
            .unwrap()
            .iter()
            .all(|outcome| *outcome == CommitOutcome::Applied)
    );
    server.kill().await;
    let loaded = store.load_pages(&[page_id(1)]).await;
    assert!(
        matches!(loaded, Err(StoreError::Unavailable(_))),
        "{loaded:?}"
    );
    server.start_again().await;
    let ids: Vec<_> = (1..=100).map(page_id).collect();
    let stored = eventually("Redis to answer", || async {
        store.load_pages(&ids).await.ok()
    })
    .await;
    assert!(
        stored.iter().all(|stored| stored.version == 1),
        "a commit with the durability fsync is on disk"
    );
}

#[tokio::test]
async fn a_full_redis_is_unavailable_until_it_has_memory_again() {
    let server = Server::start(ServerKind::Redis).await;
    let url = database(&server);
    let store = RedisStore::open(&url, Durability::Relaxed, Clock::system()).unwrap();
    store.check().await.unwrap();
    redis_command(&url, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let full = store
        .commit(&[registration_commit(&page_id(1), 0, HostTime(1))])
        .await;
    assert!(matches!(full, Err(StoreError::Unavailable(_))), "{full:?}");
    redis_command(&url, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(
        store
            .commit(&[registration_commit(&page_id(1), 0, HostTime(1))])
            .await
            .unwrap(),
        [CommitOutcome::Applied]
    );
}
