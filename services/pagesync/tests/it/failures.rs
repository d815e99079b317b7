//! The last failure of a Page and of a connection is stored, and every command that shows a status
//! shows it. The state of a Page at Facebook stands beside the status.

use serde_json::{Value as Json, json};

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);
/// A token that a message of Facebook repeats.
const TOKEN: &str = "EAAB0123456789abcdefghijkl0123456789";

fn check<'a>(checks: &'a Json, name: &str) -> &'a Json {
    let mut checks = checks.as_array().unwrap().iter();
    checks.find(|check| check["check"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_read_is_shown_with_what_facebook_said_until_a_read_succeeds() {
    let options = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    assert_eq!(connected.connect().await.0, 200);
    connected.advance(2 * MINUTE);
    let message = format!("Invalid appsecret_proof for {TOKEN}");
    let error = json!({"code": 104, "error_subcode": 7, "message": message, "fbtrace_id": "AbC1"});
    connected.reply(&json!([{"edge": "GET {id}", "status": 400, "body": {"error": error}}]));
    connected.read_again(0).await;

    let page = connected.json(&["page", "show", &page_id_text(0)]);
    assert_eq!(page["status"], "active");
    let failure = &page["last_failure"];
    let expected = json!({"code": 104, "subcode": 7, "fbtrace_id": "AbC1",
        "message": "Invalid appsecret_proof for [masked]"});
    assert_eq!(failure["facebook"], expected);
    assert!(failure["fix"].as_str().is_some_and(|fix| !fix.is_empty()));
    let listed = connected.json(&["page", "list"]);
    assert_eq!(&listed[0]["last_failure"], failure);
    assert_eq!(listed[1]["last_failure"], Json::Null);
    let explained = connected.text(&["page", "explain", &page_id_text(0)]);
    let said = "Facebook said \"Invalid appsecret_proof for [masked]\" (code 104, subcode 7, fbtrace_id AbC1)";
    assert!(explained.contains(said), "{explained}");
    let checks = connected.json(&["doctor"]);
    assert_eq!(check(&checks, "Pages")["state"], "failed", "{checks:#}");
    assert!(checks.to_string().contains("fbtrace_id AbC1"), "{checks:#}");
    let everything = format!("{page}{listed}{explained}{checks}");
    assert!(!everything.contains("EAAB"), "{everything}");

    connected.advance(25 * 60 * MINUTE);
    eventually("a read that succeeds", || async {
        let page = connected.page(0).await;
        page.last_failure.is_none().then_some(())
    })
    .await;
    let page = connected.json(&["page", "show", &page_id_text(0)]);
    assert_eq!(page["last_failure"], Json::Null);
    let checks = connected.json(&["doctor"]);
    assert_eq!(check(&checks, "Pages")["state"], "ok", "{checks:#}");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_poll_of_a_connection_is_shown_with_what_facebook_said() {
    let options = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    assert_eq!(connected.connect().await.0, 200);
    let error = json!({"code": 2500, "message": "Unknown path", "fbtrace_id": "AbC2"});
    connected.reply(&json!([{"edge": "GET me/accounts", "status": 400, "body": {"error": error}}]));
    let before = connected.connection().await.polling.failures;
    let slot = connected.connection().await.polling.daily_slot.unwrap();
    connected.advance(connected.clock.now().until(slot) + MINUTE);
    eventually("the failure", || async {
        (connected.connection().await.polling.failures > before).then_some(())
    })
    .await;
    let listed = connected.json(&["connection", "list"]);
    let failure = &listed[0]["last_failure"];
    assert_eq!(failure["facebook"]["code"], 2500);
    assert_eq!(failure["facebook"]["fbtrace_id"], "AbC2");
    let checks = connected.json(&["doctor"]);
    assert_eq!(
        check(&checks, "connections")["state"],
        "failed",
        "{checks:#}"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_page_at_facebook_stands_beside_its_status() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    for (n, field, value) in [
        (1, "is_published", false),
        (2, "is_permanently_closed", true),
    ] {
        let mut page = connected.simulator.pages().remove(n);
        page.insert(field.to_owned(), json!(value));
        connected.simulator.put_page(&page).unwrap();
    }
    assert_eq!(connected.connect().await.0, 200);
    let listed = connected.json(&["page", "list"]);
    let states: Vec<&Json> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|page| &page["facebook_state"])
        .collect();
    assert_eq!(states, ["published", "unpublished", "closed"]);
    let shown = connected.text(&["page", "show", &page_id_text(2)]);
    assert!(shown.contains("active, closed at Facebook"), "{shown}");
    connected.finish().await;
}
