//! Checks that every JSON object that a command prints has exactly the members and the types that
//! `docs/json.md` describes.

use model::page::Source;
use serde_json::{Value as Json, json};
use simulator::delivery::DeliveryFaults;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page_id_text};
use crate::support::reference::Reference;

/// Starts a deployment in which every command has something to print.
pub(crate) async fn busy_deployment() -> ConnectedDeployment {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let change = |fields: Json| {
        let fields = fields.as_object().unwrap().clone();
        connected
            .simulator
            .change(&page_id_text(0), fields)
            .unwrap();
    };
    change(json!({"name": "Renamed"}));
    eventually("the new name", || async {
        (connected.field(0, "name").await == "Renamed").then_some(())
    })
    .await;
    connected.simulator.set_delivery_faults(DeliveryFaults {
        loss: 1.0,
        ..DeliveryFaults::default()
    });
    change(json!({"phone": "+49 30 2"}));
    eventually("an unannounced change", || async {
        let page = connected.read_again(0).await;
        (!page.announcements.is_empty()).then_some(())
    })
    .await;
    let unreadable = r#"{"object":"page","entry":{}}"#;
    assert_eq!(connected.deployment.deliver(unreadable).await, 200);
    eventually("a dead letter", || async {
        let kept = common::records::dead_letter::list(&*connected.deployment.store).await;
        (!kept.unwrap().is_empty()).then_some(())
    })
    .await;
    connected
}

#[tokio::test(flavor = "multi_thread")]
async fn every_printed_object_matches_its_description_in_the_reference() {
    let reference = Reference::load();
    let connected = busy_deployment().await;
    let check = |arguments: &[&str], kind: &str| -> Json {
        let printed = connected.json(arguments);
        reference.check(kind, &printed, &arguments.join(" "));
        if let Some(list) = printed.as_array() {
            assert!(!list.is_empty(), "{arguments:?} prints nothing to check");
        }
        printed
    };
    check(&["page", "list"], "list of page");
    let page = check(&["page", "show", &page_id_text(0)], "page_detail");
    assert_eq!(page["fields"]["name"]["value"], "Renamed");
    let changes = check(&["page", "history", &page_id_text(0)], "list of change");
    let renamed = changes
        .as_array()
        .unwrap()
        .iter()
        .find(|change| change["after"] == "Renamed");
    assert_eq!(renamed.unwrap()["source"], json!(Source::Webhook));
    let feed = check(&["changes", "--limit", "2"], "list of feed_change");
    assert_eq!(feed.as_array().unwrap().len(), 2);
    let first = feed[0]["cursor"].as_str().unwrap();
    let next = check(
        &["changes", "--after", first, "--limit", "1"],
        "list of feed_change",
    );
    assert_eq!(next[0], feed[1], "a cursor continues after its entry");
    let connections = check(&["connection", "list"], "list of connection");
    assert!(
        connections[0]["last_poll"]["pages"].is_u64(),
        "{connections}"
    );
    let user = connections[0]["id"].as_str().unwrap().to_owned();
    let detail = check(&["connection", "show", &user], "connection_detail");
    assert_eq!(detail["page_ids"].as_array().unwrap().len(), 3);
    let expiring = ["connection", "list", "--expiring", "90d"];
    let expiring = check(&expiring, "list of expiring_connection");
    assert_eq!(expiring[0]["pages_lost_count"], 3);
    assert_eq!(
        connected.json(&["connection", "list", "--expiring", "5d"]),
        json!([])
    );
    let schedule = check(&["schedule"], "schedule");
    assert!(
        !schedule["due"].as_array().unwrap().is_empty(),
        "{schedule}"
    );
    let missed = check(&["missed"], "missed");
    assert_eq!(missed["changes"][0]["field"], "phone");
    let letters = check(&["dead-letter", "list"], "list of dead_letter");
    let id = letters[0]["id"].as_str().unwrap();
    check(&["dead-letter", "show", id], "dead_letter_detail");
    let create = ["api-key", "create", "--name", "bot", "--scope", "read"];
    check(&create, "created_api_key");
    check(&["api-key", "list"], "list of api_key");
    check(&["audit"], "list of action");
    check(&["doctor"], "list of check");
    check(&["config", "show"], "list of setting");
    check(
        &["erase", "page", &page_id_text(2)],
        "list of erased_object",
    );
    connected.finish().await;
}

#[test]
fn the_check_finds_a_missing_member_a_wrong_type_and_an_undescribed_member() {
    let reference = Reference::load();
    let letter =
        json!({"id": "a", "version": 1, "failed_at": "2026-11-26T04:00:00Z", "reason": "r"});
    reference.check("dead_letter", &letter, "letter");
    let refused = |letter: Json| {
        let check = || reference.check("dead_letter", &letter, "letter");
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_err()
    };
    assert!(refused(
        json!({"id": "a", "version": 1, "failed_at": "2026-11-26T04:00:00Z"})
    ));
    assert!(refused(
        json!({"id": "a", "version": 1, "failed_at": 1_790_000_000_000_u64, "reason": "r"})
    ));
    let mut with_more = letter.clone();
    with_more["kept_at"] = json!(1);
    assert!(refused(with_more));
}
