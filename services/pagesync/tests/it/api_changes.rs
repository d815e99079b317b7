//! The change feed of the HTTP API: long polls and event streams.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::store::{PageIndex, StoredPage};
use model::id::PageId;
use serde_json::{Value as Json, json};

use crate::BACKEND;
use crate::support::api::{ApiClient, EventReader, create_key};
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page_id_text};
use crate::support::{eventually, page_id};

fn change_name(connected: &ConnectedDeployment, n: usize, name: &str) {
    let fields = json!({ "name": name }).as_object().unwrap().clone();
    connected
        .simulator
        .change(&page_id_text(n), fields)
        .unwrap();
}

async fn newest(api: &ApiClient) -> String {
    let body = api.ok("/v1/changes?after=newest").await;
    assert_eq!(body["changes"], json!([]));
    body["cursor"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_answered_by_the_next_change_with_its_values() {
    let mut connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let cursor = newest(&api).await;
    let path = format!("/v1/changes?after={cursor}&wait=60s");
    let waiting = tokio::spawn({
        let (api, path) = (api.clone(), path.clone());
        async move { api.ok(&path).await }
    });
    change_name(&connected, 0, "Renamed");
    let body = waiting.await.unwrap();
    let change = &body["changes"][0];
    assert_eq!(
        (&change["page_id"], &change["cause"], &change["status"]),
        (&json!(page_id_text(0)), &json!("webhook"), &json!("active"))
    );
    assert_eq!(change["fields"], json!(["name"]));
    let values = &change["changes"][0];
    assert_eq!(
        (&values["before"], &values["after"], &values["source"]),
        (&json!("Page 0"), &json!("Renamed"), &json!("webhook"))
    );
    assert_eq!(body["cursor"], change["cursor"]);
    // The command prints the same object.
    let printed = connected.json(&["changes", "--after", &cursor, "--limit", "1"]);
    assert_eq!(printed[0], *change);
    let again = api.ok(&format!("/v1/changes?after={cursor}&limit=1")).await;
    assert_eq!(again["changes"][0], *change);

    // A key that is limited to another Page does not see the change, but goes on after it.
    let limited = create_key(&connected, &["--scope", "read", "--page", &page_id_text(1)]);
    let limited = api.with_key(limited["key"].as_str().unwrap());
    let body = limited
        .ok(&format!("/v1/changes?after={cursor}&wait=0"))
        .await;
    assert_eq!(body["changes"], json!([]));
    assert_ne!(body["cursor"], json!(cursor));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_a_change_and_takes_the_values_out_of_the_feed() {
    let mut connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let cursor = newest(&api).await;
    change_name(&connected, 0, "planted value");
    let path = format!("/v1/changes?after={cursor}&wait=60s");
    let before = api.ok(&path).await;
    assert!(before.to_string().contains("planted value"), "{before}");
    connected.text(&["erase", "page", &page_id_text(0)]);
    let after = eventually("the erasure", || async {
        let body = api.ok(&path).await;
        let changes = body["changes"].as_array().unwrap();
        let is_erasure = |change: &Json| change["cause"] == "erasure";
        changes.iter().any(is_erasure).then(|| body.clone())
    })
    .await;
    let changes = after["changes"].as_array().unwrap();
    let erasure = changes.last().unwrap();
    assert_eq!(
        (&erasure["status"], &erasure["changes"]),
        (&json!("erased"), &json!([]))
    );
    assert_eq!(changes[0]["changes"], Json::Null);
    assert!(!after.to_string().contains("planted value"), "{after}");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_gone_is_answered_with_the_place_to_go_on() {
    let mut connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let store = connected.deployment.store.clone();
    let start = newest(&api).await;
    for n in 1..=6 {
        let commit = crate::store::write(&page_id(n), 0, "n", n);
        store.commit(&[commit]).await.unwrap();
    }
    connected.deployment.storage.trim_feed_up_to(4).await;
    let (epoch, _) = start.rsplit_once('.').unwrap();
    let other = ["another.3".to_owned(), format!("{epoch}.999")];
    // The entries that the API has in memory are still complete.
    for cursor in &other {
        for headers in [&[][..], &[("accept", "text/event-stream")]] {
            let path = format!("/v1/changes?after={cursor}&wait=60s");
            let answer = api.request(&path, headers).await;
            assert_eq!(answer.status(), 410, "{cursor}");
            let body: Json = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert_eq!(body["code"], "cursor_gone");
            let go_on = body["cursor"].as_str().unwrap();
            assert_eq!(
                api.ok(&format!("/v1/changes?after={go_on}")).await["changes"],
                json!([])
            );
        }
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_has_every_change_once_and_ends_when_the_process_stops() {
    let mut connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let cursor = newest(&api).await;
    let stream = [("accept", "text/event-stream")];
    let path = format!("/v1/changes?after={cursor}");
    let mut events = EventReader::new(api.request(&path, &stream).await);
    // The later name is greater, because webhooks of one second have the same stamp.
    for name in ["name 1", "name 2", "name 3"] {
        change_name(&connected, 0, name);
        let event = events.next().await.unwrap();
        assert_eq!(event["event"], "change");
        let change: Json = serde_json::from_str(&event["data"]).unwrap();
        assert_eq!(change["changes"][0]["after"], name);
        assert_eq!(change["cursor"], event["id"].as_str());
    }
    // A new stream goes on after the last event that was received.
    let headers = [("accept", "text/event-stream"), ("last-event-id", &*cursor)];
    let mut again = EventReader::new(api.request("/v1/changes?after=newest", &headers).await);
    let event = again.next().await.unwrap();
    let change: Json = serde_json::from_str(&event["data"]).unwrap();
    assert_eq!(change["changes"][0]["after"], "name 1");
    connected.deployment.wait_until_idle().await;
    for (_, running) in &connected.deployment.roles {
        running.lifecycle.stop();
    }
    while again.next().await.is_some() {}
    assert_eq!(events.next().await, None);
    connected.finish().await;
}

/// A Page moves from one client to another one and is erased. A key of either client sees what concerns
/// it, and no values of the other.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_two_clients_see_a_page_leave_and_come_and_its_erasure() {
    let mut connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let of_client = |client: &str| {
        let key = create_key(&connected, &["--scope", "read", "--client", client]);
        api.with_key(key["key"].as_str().unwrap())
    };
    let (acme, globex) = (of_client("acme"), of_client("globex"));
    let cursor = newest(&api).await;
    let store = connected.deployment.store.clone();
    let id = page_id(1);
    for (version, client, name) in [
        (0, "acme", "of acme"),
        (1, "globex", "of globex"),
        (2, "globex", "more"),
    ] {
        let mut commit = crate::store::write(&id, version, name, version + 1);
        commit.page.as_mut().unwrap().page.client = Some(client.to_owned());
        store.commit(&[commit]).await.unwrap();
    }
    connected.text(&["erase", "page", "1"]);
    // An answer without `wait` can lack the changes of the last moment.
    let seen = async |api: &ApiClient, n: usize| -> Vec<(String, Json, Json)> {
        let changes = eventually("every change", || async {
            let body = api
                .ok(&format!("/v1/changes?after={cursor}&limit=1000"))
                .await;
            let changes = body["changes"].as_array().unwrap().clone();
            (changes.len() >= n).then_some(changes)
        })
        .await;
        changes
            .iter()
            .map(|change| {
                let cause = change["cause"].as_str().unwrap().to_owned();
                (cause, change["client"].clone(), change["fields"].clone())
            })
            .collect()
    };
    let name = json!(["name"]);
    let entry =
        |cause: &str, client: Json, fields: &Json| (cause.to_owned(), client, fields.clone());
    assert_eq!(
        seen(&acme, 2).await,
        [
            entry("webhook", json!("acme"), &name),
            entry("client", Json::Null, &json!([]))
        ]
    );
    assert_eq!(
        seen(&globex, 3).await,
        [
            entry("client", json!("globex"), &name),
            entry("webhook", json!("globex"), &name),
            entry("erasure", json!("globex"), &json!([])),
        ]
    );
    connected.finish().await;
}

/// Many changes of other Pages are under way. The stream of a limited key sends its cursor all the same,
/// and ends when the key is revoked.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_a_limited_key_moves_on_and_ends_with_its_key() {
    let mut connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let created = create_key(&connected, &["--scope", "read", "--page", "1"]);
    let limited = api.with_key(created["key"].as_str().unwrap());
    let cursor = newest(&api).await;
    let store = connected.deployment.store.clone();
    let writer = tokio::spawn(async move {
        for version in 0.. {
            let commit =
                crate::store::write(&page_id(2), version, &version.to_string(), version + 1);
            store.commit(&[commit]).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let path = format!("/v1/changes?after={cursor}");
    let stream = [("accept", "text/event-stream")];
    let mut events = EventReader::new(limited.request(&path, &stream).await);
    let heartbeat = events.next().await.unwrap();
    assert!(!heartbeat.contains_key("data"), "{heartbeat:?}");
    assert_ne!(heartbeat["id"], cursor);
    connected.text(&["api-key", "revoke", created["id"].as_str().unwrap()]);
    while events.next().await.is_some() {}
    writer.abort();
    let _ = writer.await;
    // A client that does not want a stream gets none.
    let accept = [("accept", "application/json, text/event-stream;q=0")];
    let answer = api.request("/v1/changes?after=newest", &accept).await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    connected.finish().await;
}

/// The state of a reader, as it would be in its database: values and cursor change together.
#[derive(Debug, Default)]
struct Mirror {
    names: BTreeMap<String, String>,
    cursor: String,
}

/// Copies all Pages and then follows the changes, from wherever the mirror is.
async fn follow(api: ApiClient, mirror: Arc<Mutex<Mirror>>, received: Arc<AtomicUsize>) {
    loop {
        let cursor = mirror.lock().unwrap().cursor.clone();
        let limit = fastrand::usize(1..=300);
        let body = api
            .ok(&format!(
                "/v1/changes?after={cursor}&limit={limit}&wait=60s"
            ))
            .await;
        let changes = body["changes"].as_array().unwrap();
        let mut mirror = mirror.lock().unwrap();
        for change in changes {
            let id = change["page_id"].as_str().unwrap().to_owned();
            let name = change["changes"][0]["after"].as_str().unwrap();
            mirror.names.insert(id, name.to_owned());
        }
        mirror.cursor = body["cursor"].as_str().unwrap().into();
        received.fetch_add(changes.len(), Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_killed_at_random_ends_with_the_state_of_the_store() {
    const PAGES: u64 = 100;
    const ROUNDS: u64 = 100;
    let mut connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let api = ApiClient::start(&mut connected, &["--scope", "read"]).await;
    let store = connected.deployment.store.clone();
    let cursor = newest(&api).await;
    let mirror = Arc::new(Mutex::new(Mirror {
        cursor,
        ..Mirror::default()
    }));
    let received = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for round in 0..ROUNDS {
                let commit = |n: u64| {
                    crate::store::write(&page_id(n), round, &format!("{n} in {round}"), round + 1)
                };
                let commits: Vec<_> = (1..=PAGES).map(commit).collect();
                store.commit(&commits).await.unwrap();
            }
        }
    });
    let total = usize::try_from(PAGES * ROUNDS).unwrap();
    let mut kills = 0;
    while received.load(Ordering::SeqCst) < total {
        let reader = tokio::spawn(follow(api.clone(), mirror.clone(), received.clone()));
        let at = received.load(Ordering::SeqCst) + fastrand::usize(1..=500);
        eventually("some changes", || async {
            (received.load(Ordering::SeqCst) >= at.min(total)).then_some(())
        })
        .await;
        reader.abort();
        let _ = reader.await;
        kills += 1;
    }
    writer.await.unwrap();
    assert!(kills >= 10, "the reader was killed {kills} times");
    assert_eq!(
        received.load(Ordering::SeqCst),
        total,
        "each change arrives once"
    );
    let stored = store.list_pages(&PageIndex::All, None, 1000).await.unwrap();
    let name = |(id, stored): (PageId, common::store::Versioned<StoredPage>)| {
        let StoredPage::Page(page) = stored.value else {
            panic!("a Page")
        };
        let name = crate::support::facebook::field(&page, "name");
        (id.to_string(), name.as_str().unwrap().to_owned())
    };
    let stored: BTreeMap<String, String> = stored.into_iter().map(name).collect();
    assert_eq!(mirror.lock().unwrap().names, stored);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_follows_changes_until_its_reader_closes_the_pipe() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let cursor = connected
        .deployment
        .store
        .newest_cursor()
        .await
        .unwrap()
        .to_string();
    let arguments = [
        "changes", "--follow", "--after", &cursor, "--output", "ndjson",
    ];
    let mut command = connected.command(connected.deployment.roles[0].0, &arguments);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    change_name(&connected, 0, "name 1");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::task::block_in_place(|| lines.next().unwrap().unwrap());
    let change: Json = serde_json::from_str(&line).unwrap();
    assert_eq!(change["changes"][0]["after"], "name 1");
    drop(lines);
    change_name(&connected, 0, "name 2");
    let ended = tokio::task::block_in_place(|| child.wait().unwrap());
    assert!(ended.success());
    connected.finish().await;
}
