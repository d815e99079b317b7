//! Facebook stops delivering the webhooks of a Page when nobody gives access to it any more.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use simulator::browser::Decision;
use simulator::people::Person;

use crate::BACKEND;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page_id_text};
use crate::support::{client, eventually};

const ADA: &str = "200000000000001";
const BOB: &str = "200000000000002";
const SCOPES: &str = "pages_show_list,pages_read_engagement,pages_manage_metadata,pages_messaging";

/// Starts a deployment that Ada has connected. A bot with the same app has subscribed Page 0 to
/// messages.
async fn connected() -> ConnectedDeployment {
    let options = DeploymentOptions {
        extra: &[("PAGESYNC_SCOPES", SCOPES)],
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    let of_bot = (page_id_text(0), BTreeSet::from(["messages".to_owned()]));
    connected
        .simulator
        .facebook()
        .page_subscriptions
        .extend([of_bot]);
    assert_eq!(connected.connect().await.0, 200);
    assert_eq!(subscriptions(&connected).len(), 3);
    connected
}

fn subscriptions(connected: &ConnectedDeployment) -> BTreeMap<String, BTreeSet<String>> {
    connected.simulator.facebook().page_subscriptions.clone()
}

/// Returns the subscriptions after pagesync has left: only that of the bot.
fn of_bot() -> BTreeMap<String, BTreeSet<String>> {
    BTreeMap::from([(page_id_text(0), BTreeSet::from(["messages".to_owned()]))])
}

/// Connects Bob, who manages Page 2 only.
async fn connect_bob(connected: &ConnectedDeployment) {
    let bob = json!({"id": BOB, "name": "Bob", "pages": [page_id_text(2)]});
    let bob: Person = serde_json::from_value(bob).unwrap();
    connected
        .simulator
        .facebook()
        .people
        .insert(BOB.to_owned(), bob);
    let decision = Decision {
        user: BOB.to_owned(),
        ..Decision::default()
    };
    assert_eq!(connected.connect_as(&decision).await.0, 200);
}

/// Runs a command where the tokens can be opened. Returns what it printed.
fn run(connected: &ConnectedDeployment, arguments: &[&str]) -> String {
    let (code, output, errors) = connected.run_as_worker(arguments);
    assert_eq!(code, 0, "{errors}");
    output + &errors
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_removes_the_app_from_pages_of_nobody_else_and_keeps_the_permissions() {
    let connected = connected().await;
    connect_bob(&connected).await;
    let printed = run(&connected, &["connection", "disconnect", ADA]);
    assert!(
        printed.contains("fields of pagesync from 2 Pages at Facebook"),
        "{printed}"
    );
    assert!(printed.contains("--revoke revokes them"), "{printed}");
    let after = subscriptions(&connected);
    assert!(
        after[&page_id_text(2)].contains("name"),
        "Bob gives access to Page 2"
    );
    let others: BTreeMap<_, _> = after
        .into_iter()
        .filter(|(id, _)| *id != page_id_text(2))
        .collect();
    assert_eq!(others, of_bot());
    let permissions = connected.simulator.facebook().people[ADA]
        .permissions
        .clone();
    assert_eq!(permissions.get("pages_show_list"), Some(&true));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_removes_the_app_from_the_erased_pages() {
    let connected = connected().await;
    let ids = [page_id_text(0), page_id_text(1), page_id_text(2)];
    let arguments: Vec<&str> = ["erase", "page"]
        .into_iter()
        .chain(ids.iter().map(String::as_str))
        .collect();
    run(&connected, &arguments);
    assert_eq!(subscriptions(&connected), of_bot());
    connected.finish().await;
}

/// Posts a signed request of Facebook about Ada. Returns the answer of pagesync.
async fn request(connected: &ConnectedDeployment, kind: &str) -> serde_json::Value {
    let address = format!("{}/_sim/people/{ADA}/{kind}", connected.facebook_url);
    let callback = json!({"callback": format!("{}/facebook/{kind}", connected.public)});
    let answer = client().post(address).json(&callback).send().await.unwrap();
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_deletion_removes_the_app_and_a_deauthorization_makes_no_call() {
    let connected = connected().await;
    request(&connected, "data-deletion").await;
    eventually("the removal", || async {
        (subscriptions(&connected) == of_bot()).then_some(())
    })
    .await;
    assert_eq!(connected.connect().await.0, 200);
    let calls = connected.calls("GET {id}/subscribed_apps");
    request(&connected, "deauthorize").await;
    eventually("the erasure", || async {
        let connections = common::records::connection::list(&*connected.deployment.store).await;
        connections.unwrap().is_empty().then_some(())
    })
    .await;
    connected.deployment.wait_until_idle().await;
    assert_eq!(connected.calls("GET {id}/subscribed_apps"), calls);
    assert_eq!(connected.calls("DELETE {id}/subscribed_apps"), 2);
    connected.finish().await;
}
