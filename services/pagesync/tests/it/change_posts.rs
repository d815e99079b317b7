//! Changes that are posted to destinations.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::config::Role;
use common::records::destination;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value as Json, json};
use sha2::Sha256;

use crate::BACKEND;
use crate::store::write;
use crate::support::api::ApiClient;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page_id_text};
use crate::support::receiver::{Answer, Received, Receiver};
use crate::support::reference::Reference;
use crate::support::{eventually, page_id};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Starts a deployment whose changes go to a receiver, and to the destination `other` if there is one.
pub(crate) async fn start(receiver: &Receiver, other: Option<&Receiver>) -> ConnectedDeployment {
    let list = other.map_or(
        json!([]),
        |other| json!([{"name": "other", "url": other.url, "secret": SECRET, "thin": true}]),
    );
    let list = list.to_string();
    let extra = [
        ("PAGESYNC_CHANGES_URL", &*receiver.url),
        ("PAGESYNC_CHANGES_SECRET", SECRET),
        ("PAGESYNC_CHANGES_AUTHORIZATION", "Bearer of-the-bot"),
        ("PAGESYNC_DESTINATIONS", &list),
    ];
    let options = DeploymentOptions {
        extra: &extra,
        ..DeploymentOptions::default()
    };
    let mut connected = ConnectedDeployment::start(BACKEND, options).await;
    ApiClient::start(&mut connected, &["--scope", "read"]).await;
    eventually("every destination to have a cursor", || async {
        let mut destinations = listed(&connected).into_iter();
        destinations
            .all(|one| one["cursor"].is_string())
            .then_some(())
    })
    .await;
    // The first values of the three Pages are changes, too.
    assert_eq!(connected.connect().await.0, 200);
    eventually("the posts of the login", || async {
        let mut destinations = listed(&connected).into_iter();
        destinations.all(|one| one["delivered"] == 3).then_some(())
    })
    .await;
    for receiver in std::iter::once(receiver).chain(other) {
        receiver.forget();
    }
    connected
}

/// Returns the destinations.
fn listed(connected: &ConnectedDeployment) -> Vec<Json> {
    let listed = connected.json(&["destination", "list"]);
    listed.as_array().unwrap().clone()
}

pub(crate) fn change_name(connected: &ConnectedDeployment, name: &str) {
    let fields = json!({ "name": name }).as_object().unwrap().clone();
    connected
        .simulator
        .change(&page_id_text(0), fields)
        .unwrap();
}

/// Returns the new names in posts, in order.
pub(crate) fn names(received: &[Received]) -> Vec<String> {
    let name = |post: &Received| post.json()["data"]["changes"][0]["after"].clone();
    received
        .iter()
        .map(|post| name(post).as_str().unwrap_or("-").to_owned())
        .collect()
}

fn is_signed(post: &Received) -> bool {
    let header = |name: &str| post.headers[name].clone();
    let key = BASE64.decode(SECRET.trim_start_matches("whsec_")).unwrap();
    let signed = format!(
        "{}.{}.{}",
        header("webhook-id"),
        header("webhook-timestamp"),
        post.body
    );
    let mac = Hmac::<Sha256>::new_from_slice(&key)
        .unwrap()
        .chain_update(signed);
    header("webhook-signature") == format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}

fn state_of(connected: &ConnectedDeployment, name: &str) -> Json {
    let mut all = listed(connected).into_iter();
    all.find(|one| one["name"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_posted_signed_and_in_order_and_one_destination_holds_no_other() {
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    let connected = start(&receiver, Some(&other)).await;
    other.answer(Answer::Never);
    for n in 1..=3 {
        change_name(&connected, &format!("name {n}"));
        receiver.wait_for(n).await;
    }
    let received = receiver.received();
    assert_eq!(names(&received), ["name 1", "name 2", "name 3"]);
    assert!(received.iter().all(is_signed));
    let ids: BTreeSet<&String> = received
        .iter()
        .map(|post| &post.headers["webhook-id"])
        .collect();
    assert_eq!(ids.len(), 3);
    let post = &received[0];
    assert_eq!(post.headers["authorization"], "Bearer of-the-bot");
    assert_eq!(post.headers["content-type"], "application/json");
    let body = post.json();
    assert_eq!(body["type"], "page.changed");
    Reference::load().check("feed_change", &body["data"], "data");
    assert_eq!(body["data"]["changes"][0]["before"], "Page 0");

    // The other destination got its first change, without values, and has not answered yet.
    let waiting = other.wait_for(1).await;
    assert!(is_signed(&waiting[0]));
    assert_eq!(waiting[0].json()["data"]["changes"], Json::Null);
    assert_eq!(waiting[0].json()["data"]["fields"], json!(["name"]));
    assert!(!waiting[0].headers.contains_key("authorization"));
    Reference::load().check(
        "list of destination",
        &connected.json(&["destination", "list"]),
        "",
    );
    let delivered = eventually("the stored cursor", || async {
        let state = state_of(&connected, "default");
        (state["delivered"] == 6).then_some(state)
    })
    .await;
    assert_eq!(delivered["state"], "posting");
    assert!(
        !connected
            .text(&["destination", "list"])
            .contains("in-the-address")
    );
    let shown = connected.text(&["config", "show"]);
    assert!(
        !shown.contains("in-the-address") && !shown.contains("of-the-bot"),
        "{shown}"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_not_accepted_is_posted_again_and_no_redirect_is_followed() {
    let receiver = Receiver::start().await;
    let connected = start(&receiver, None).await;
    for answer in [Answer::Redirect, Answer::Status(500)] {
        receiver.answer(answer);
        let before = receiver.received().len();
        change_name(&connected, &format!("name {before}"));
        // Two failed attempts, the second after a pause.
        receiver.wait_for(before + 2).await;
        let failing = eventually("the failure", || async {
            let state = state_of(&connected, "default");
            (state["failures"].as_u64()? >= 2).then_some(state)
        })
        .await;
        assert_eq!(failing["state"], "failing");
        let text = failing["last_failure"].as_str().unwrap();
        assert!(text.starts_with("the receiver answered "), "{text}");
        receiver.answer(Answer::Status(204));
        eventually("the success", || async {
            (state_of(&connected, "default")["state"] == "posting").then_some(())
        })
        .await;
        let attempts = receiver.received().split_off(before);
        let ids: BTreeSet<&String> = attempts
            .iter()
            .map(|post| &post.headers["webhook-id"])
            .collect();
        assert_eq!(ids.len(), 1, "every attempt has the same id");
        assert!(attempts.iter().all(is_signed));
        assert!(
            attempts
                .iter()
                .all(|post| post.path.starts_with("/changes?"))
        );
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_paused_resumed_replayed_and_tested() {
    let receiver = Receiver::start().await;
    let connected = start(&receiver, None).await;
    let start = state_of(&connected, "default")["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    connected.text(&["destination", "test"]);
    assert_eq!(receiver.received()[0].json()["type"], "pagesync.test");
    connected.text(&["destination", "pause"]);
    assert_eq!(state_of(&connected, "default")["state"], "paused");
    change_name(&connected, "name 1");
    eventually("the change", || async {
        (connected.field(0, "name").await == "name 1").then_some(())
    })
    .await;
    connected.text(&["destination", "resume"]);
    let received = receiver.wait_for(2).await;
    assert_eq!(names(&received[1..]), ["name 1"]);
    connected.text(&["destination", "replay", "--after", &start]);
    let received = receiver.wait_for(3).await;
    assert_eq!(
        received[2].headers["webhook-id"],
        received[1].headers["webhook-id"]
    );
    let (code, _, errors) = connected.run(&["destination", "replay", "--after", "another.1"], "");
    assert_eq!(code, 1);
    assert!(errors.contains("no longer stored"), "{errors}");
    receiver.answer(Answer::Status(401));
    let (code, _, errors) = connected.run(&["destination", "test"], "");
    assert_eq!(code, 1);
    assert!(
        errors.contains("401") && !errors.contains("in-the-address"),
        "{errors}"
    );
    connected.finish().await;
}

/// While nothing was posted, the feed lost the entries after the cursor.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_learns_that_changes_are_missing() {
    let receiver = Receiver::start().await;
    let connected = start(&receiver, None).await;
    let store = connected.deployment.store.clone();
    let lost = destination::change(&*store, "default", |state| {
        state.cursor = Some("another.1".to_owned());
    });
    lost.await.unwrap();
    let received = receiver.wait_for(1).await;
    assert_eq!(received[0].headers["webhook-id"], "gap-another-1");
    assert_eq!(received[0].json()["type"], "changes.missing");
    assert!(is_signed(&received[0]));
    let cursor = received[0].json()["data"]["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(cursor, store.newest_cursor().await.unwrap().to_string());
    change_name(&connected, "name 1");
    let received = receiver.wait_for(2).await;
    assert_eq!(names(&received[1..]), ["name 1"]);
    connected.finish().await;
}

/// The process stops while it posts several changes, of which the receiver has accepted two.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_stores_the_cursor_of_the_accepted_posts() {
    let receiver = Receiver::start().await;
    let connected = start(&receiver, None).await;
    let store = connected.deployment.store.clone();
    connected.text(&["destination", "pause"]);
    let commits: Vec<_> = (1..=5).map(|n| write(&page_id(n), 0, "n", n)).collect();
    store.commit(&commits).await.unwrap();
    receiver.answer(Answer::FirstOnly(2));
    connected.text(&["destination", "resume"]);
    receiver.wait_for(3).await;
    let serves = |role: Role| matches!(role, Role::Up | Role::Api);
    let mut roles = connected.deployment.roles.iter();
    let (_, running) = roles.find(|(role, _)| serves(*role)).unwrap();
    running.lifecycle.stop();
    running.lifecycle.finish().await.unwrap();
    let state = destination::find(&*store, "default").await.unwrap().value;
    // The first three are those of the login.
    assert_eq!((state.delivered, state.lease.owner), (5, None));
    connected.finish().await;
}
