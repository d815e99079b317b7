//! Redis loses its last commits in a crash: it is killed, and started again from its append-only
//! file as it was before.

use common::clock::Clock;
use common::pages::registration_commit;
use common::records::{connection, dead_letter, erasure, put_write, write_records};
use common::store::redis::client::RedisStore;
use common::store::redis::durability::Durability;
use common::store::{Changes, Store, StoreError};
use model::id::UserId;
use serde_json::json;
use simulator::delivery::single_change_body;
use simulator::signed_request;

use crate::store::{load, write};
use crate::support::deployment::{APP_SECRET, Deployment, TestStorage};
use crate::support::engine::{Server, ServerKind};
use crate::support::raw_access::redis_command;
use crate::support::servers::{database, shared_broker, vhost};
use crate::support::{eventually, page_id};

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_jobs_are_right_after_redis_has_lost_its_last_commits() {
    let redis = Server::start(ServerKind::Redis).await;
    let url = database(&redis);
    let storage = TestStorage::Distributed {
        vhost: vhost(shared_broker().await).await,
        redis: url.clone(),
    };
    let deployment = Deployment::start_on(storage, &[]).await;
    let store = deployment.store.clone();
    let (page, person) = (page_id(1), UserId::parse("7").unwrap());
    deployment
        .register_without_read(std::slice::from_ref(&page))
        .await;
    let login = json!({"user": "7", "connected_at": 1, "consented_at": 1});
    let put = put_write(connection::key(&person), &login, None, None);
    write_records(&*store, vec![put]).await.unwrap();
    let before = redis.copy_append_only_file();

    // Redis executes commits, but does not say that they are on disk.
    redis_command(&url, &["ACL", "SETUSER", "default", "-waitaof"]).await;
    let name = single_change_body(page.as_str(), "name", "after");
    assert_eq!(deployment.deliver(name).await, 200);
    eventually("the value in Redis", || async {
        (deployment.name(&page).await? == "after").then_some(())
    })
    .await;
    let unreadable = json!({"object": "page", "entry": [{"id": [], "time": 1}]});
    assert_eq!(deployment.deliver(unreadable.to_string()).await, 200);
    let payload = signed_request::payload_for("7", Clock::system().now().0 / 1000);
    let form = [("signed_request", signed_request::sign(APP_SECRET, &payload))];
    let removed = deployment
        .client
        .post(deployment.url("/facebook/deauthorize"));
    assert_eq!(removed.form(&form).send().await.unwrap().status(), 200);

    redis.kill().await;
    redis.restore_append_only_file(&before);
    redis.start_again().await;
    eventually("the value, the dead letter and the erasure", || async {
        let is_named = deployment.name(&page).await? == "after";
        let dead_letters = dead_letter::list(&*store).await.ok()?;
        let erased = erasure::last_erasure(&*store, &person).await.ok()?;
        let left = connection::list(&*store).await.ok()?;
        let is_erased = erased.erasure_requested_at.is_some() && left.is_empty();
        (is_named && dead_letters.len() == 1 && is_erased).then_some(())
    })
    .await;
    deployment.wait_until_idle().await;
    deployment.finish().await;
}

#[tokio::test]
async fn a_cursor_from_before_a_crash_is_reported_as_a_gap() {
    let redis = Server::start(ServerKind::Redis).await;
    let url = database(&redis);
    let store = RedisStore::open(&url, Durability::Fsync, Clock::system()).unwrap();
    let rename = async |from: u64, to: u64| {
        for n in from..to {
            let stored = load(&store, &page_id(1)).await;
            let commit = write(&page_id(1), stored.version, &format!("name {n}"), n + 1);
            store.commit(&[commit]).await.unwrap();
        }
    };
    rename(0, 5).await;
    let before = redis.copy_append_only_file();
    rename(5, 10).await;
    let Changes::Entries(entries) = store.changes_after(None, 100).await.unwrap() else {
        panic!("nothing was trimmed")
    };
    assert_eq!(entries.len(), 10);
    let (cursor, _) = entries.last().unwrap();
    redis.kill().await;
    redis.restore_append_only_file(&before);
    redis.start_again().await;
    eventually("Redis to answer", || async { store.check().await.ok() }).await;
    // The entries 6 to 15 are others than those that the reader has seen.
    rename(10, 20).await;
    let after = store.changes_after(Some(cursor), 100).await.unwrap();
    let Changes::Trimmed(next) = after else {
        panic!("{after:?}")
    };
    assert_eq!(next.position, 15);
    let nothing = store.changes_after(Some(&next), 100).await.unwrap();
    assert_eq!(nothing, Changes::Entries(Vec::new()));
}

#[tokio::test]
async fn a_replicated_commit_succeeds_only_when_the_replica_has_it() {
    let (primary, replica) = tokio::join!(
        Server::start(ServerKind::Redis),
        Server::start(ServerKind::Redis)
    );
    let url = format!("redis://127.0.0.1:{}/0", primary.ports[0]);
    let store = RedisStore::open(&url, Durability::Replicated(1), Clock::system()).unwrap();
    let errors = store.check().await.unwrap().errors;
    assert!(errors[0].contains("1 connected replicas"), "{errors:?}");
    let (host, port) = primary.address_for_servers();
    let replica_url = format!("redis://127.0.0.1:{}/0", replica.ports[0]);
    redis_command(&replica_url, &["REPLICAOF", &host, &port.to_string()]).await;
    eventually("the replica", || async {
        let health = store.check().await.ok()?;
        health.errors.is_empty().then_some(())
    })
    .await;
    let register = |n| registration_commit(&page_id(n), 0, Clock::system().now());
    store.commit(&[register(1)]).await.unwrap();
    let on_replica = RedisStore::open(&replica_url, Durability::Relaxed, Clock::system()).unwrap();
    assert_eq!(load(&on_replica, &page_id(1)).await.version, 1);
    replica.freeze().await;
    eventually("the refusal", || async {
        let refused = store.commit(&[register(2)]).await.err()?;
        refused
            .to_string()
            .contains("0 of 1 replicas")
            .then_some(())
    })
    .await;
    replica.thaw().await;
    eventually("a commit", || async {
        store.commit(&[register(3)]).await.ok()
    })
    .await;
    let refused = on_replica.commit(&[register(4)]).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
}
