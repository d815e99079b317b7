//! Rules of Facebook's platform that programs commonly break. Each has one test, through the HTTP
//! interfaces of the deployment and of the simulated Facebook.

use std::time::Duration;

use common::store::RecordKind;
use model::field::{FieldName, TrackedFields};
use serde_json::{Value as Json, json};
use simulator::browser::Decision;
use simulator::bytes::{signature_256, signature_sha1};

use crate::BACKEND;
use crate::support::client;
use crate::support::deployment::{APP_SECRET, VERIFY_TOKEN};
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text, status_and_body,
};

/// Starts a deployment with three connected Pages and a clock that only the test advances.
async fn connected() -> ConnectedDeployment {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    connected
}

#[tokio::test(flavor = "multi_thread")]
async fn only_fields_that_graph_has_are_requested() {
    for name in ["email", "created_time"] {
        let field = FieldName::parse(name).unwrap();
        assert!(!TrackedFields::default().contains(&field), "{name}");
    }
    let connected = connected().await;
    assert_eq!(
        connected.calls("GET me/accounts"),
        1,
        "no field was refused"
    );
    assert_eq!(
        connected.field(0, "emails").await,
        json!(["a@page.example"])
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_graph_version_is_configured_and_an_expired_one_is_detected() {
    let extra = [("PAGESYNC_GRAPH_VERSION", "v20.0")];
    let connected = ConnectedDeployment::start(
        BACKEND,
        DeploymentOptions {
            extra: &extra,
            ..DeploymentOptions::default()
        },
    )
    .await;
    let redirect = client().get(connected.login()).send().await.unwrap();
    assert!(
        redirect.headers()["location"]
            .to_str()
            .unwrap()
            .contains("/v20.0/dialog/oauth?")
    );
    assert_eq!(connected.connect().await.0, 200);
    let mismatches: u64 = connected
        .deployment
        .roles
        .iter()
        .map(|(_, role)| role.metrics.graph_replies.get("another_version"))
        .sum();
    assert!(mismatches > 0, "v20.0 is served by v21.0");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_permissions_that_reading_needs_are_requested() {
    let connected = connected().await;
    let scopes = connected.connection().await.permissions;
    for needed in [
        "pages_show_list",
        "pages_read_engagement",
        "pages_manage_metadata",
        "business_management",
    ] {
        assert!(scopes.iter().any(|scope| scope == needed), "{needed}");
    }
    assert!(
        !scopes.iter().any(|scope| scope == "pages_messaging"),
        "a permission that is not needed is not requested"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_and_every_page_are_subscribed() {
    let connected = connected().await;
    let subscriptions = client()
        .get(format!("{}/_sim/subscriptions", connected.facebook_url))
        .send()
        .await
        .unwrap();
    let (_, subscriptions) = status_and_body(subscriptions).await;
    assert_eq!(
        subscriptions["app"]["callback"],
        json!(format!("{}/facebook/webhook", connected.public))
    );
    assert_eq!(subscriptions["app"]["include_values"], json!(true));
    assert_eq!(subscriptions["pages"].as_object().unwrap().len(), 3);
    let change = json!({"name": "Delivered"}).as_object().cloned().unwrap();
    connected
        .simulator
        .change(&page_id_text(0), change)
        .unwrap();
    crate::support::eventually("the delivery", || async {
        (connected.field(0, "name").await == json!("Delivered")).then_some(())
    })
    .await;
    // Without the Page subscription, the app subscription alone delivers nothing.
    connected
        .simulator
        .facebook()
        .page_subscriptions
        .remove(&page_id_text(1));
    let (_, before) = status_and_body(
        client()
            .get(format!("{}/_sim/deliveries", connected.facebook_url))
            .send()
            .await
            .unwrap(),
    )
    .await;
    let change = json!({"name": "Silent"}).as_object().cloned().unwrap();
    connected
        .simulator
        .change(&page_id_text(1), change)
        .unwrap();
    let (_, after) = status_and_body(
        client()
            .get(format!("{}/_sim/deliveries", connected.facebook_url))
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(before["events"], after["events"]);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_challenge_is_returned_as_plain_text() {
    let connected = connected().await;
    let query = [
        ("hub.mode", "subscribe"),
        ("hub.challenge", "1158201444"),
        ("hub.verify_token", VERIFY_TOKEN),
    ];
    let url = connected.deployment.url("/facebook/webhook");
    let response = client().get(url).query(&query).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert_eq!(response.text().await.unwrap(), "1158201444");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_needs_the_sha_256_signature() {
    let connected = connected().await;
    let body = br#"{"object":"page","entry":[]}"#;
    let sha1 = signature_sha1(APP_SECRET, body);
    assert_eq!(
        connected
            .deployment
            .post(&[("x-hub-signature", &sha1)], body)
            .await,
        401
    );
    let sha256 = signature_256(APP_SECRET, body);
    assert_eq!(
        connected
            .deployment
            .post(&[("x-hub-signature-256", &sha256)], body)
            .await,
        200
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_exchanged_for_a_long_lived_one_before_pages_are_read() {
    let connected = connected().await;
    let page_tokens: Vec<_> = connected
        .simulator
        .facebook()
        .tokens
        .values()
        .filter(|token| token.owner != simulator::token::TokenOwner::User)
        .cloned()
        .collect();
    assert_eq!(page_tokens.len(), 3);
    assert!(
        page_tokens.iter().all(|token| token.expires_at.is_none()),
        "the Page tokens of a long-lived token never expire"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_result_page_is_read_once_and_stored() {
    let connected = ConnectedDeployment::start(
        BACKEND,
        DeploymentOptions {
            pages: 130,
            ..DeploymentOptions::default()
        },
    )
    .await;
    let (status, body) = connected.connect().await;
    assert_eq!(
        (status, body["pages"]["data"].as_array().unwrap().len()),
        (200, 130)
    );
    assert_eq!(connected.calls("GET me/accounts"), 2);
    assert_eq!(connected.field(129, "name").await, json!("Page 129"));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_subscription_of_another_app_is_ignored() {
    // On every Page, the simulator lists another app first. That app is subscribed to every field.
    let connected = connected().await;
    let fields = connected.simulator.facebook().page_subscriptions[&page_id_text(0)].clone();
    assert!(
        fields.contains("name") && !fields.contains("parking"),
        "the fields of another app must not be copied: {fields:?}"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_a_webhook_reports_without_a_value_is_read() {
    let connected = ConnectedDeployment::start(
        BACKEND,
        DeploymentOptions {
            extra: &[("PAGESYNC_VERIFY_AFTER", "10s")],
            clock: manual_clock(),
            ..DeploymentOptions::default()
        },
    )
    .await;
    assert_eq!(connected.connect().await.0, 200);
    connected.advance(Duration::from_secs(61));
    let change = json!({"website": "https://new.example"})
        .as_object()
        .cloned()
        .unwrap();
    connected
        .simulator
        .change(&page_id_text(1), change)
        .unwrap();
    crate::support::eventually("the notification to be applied", || async {
        connected
            .page(1)
            .await
            .polling
            .has_open_notification_or_request()
            .then_some(())
    })
    .await;
    connected.advance(Duration::from_secs(60));
    crate::support::eventually("the read", || async {
        (connected.field(1, "website").await == json!("https://new.example")).then_some(())
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parameters_of_the_dialog_address_are_percent_encoded() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let redirect = client().get(connected.login()).send().await.unwrap();
    let address = redirect.headers()["location"].to_str().unwrap();
    let encoded = format!("{}/facebook/callback", connected.public)
        .replace(':', "%3A")
        .replace('/', "%2F");
    assert!(
        address.contains(&format!("redirect_uri={encoded}")),
        "{address}"
    );
    assert!(
        address.contains("scope=pages_show_list%2Cpages_read_engagement"),
        "{address}"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_login_is_reported_as_denied() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let deny = Decision {
        deny: true,
        ..Decision::default()
    };
    let (mut browser, callback) = connected.visit(&deny).await;
    let (status, body) = status_and_body(browser.get(&callback).await.unwrap()).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (403, &json!("access_denied"))
    );
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("not allowed")
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_webhooks_of_other_objects_are_answered_with_200() {
    let connected = connected().await;
    for object in ["user", "permissions", "instagram"] {
        let body = format!(r#"{{"object":"{object}","entry":[{{"id":"1","time":1750000000}}]}}"#);
        assert_eq!(connected.deployment.deliver(body).await, 200, "{object}");
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daily_poll_runs() {
    let connected = connected().await;
    let slot = connected.connection().await.polling.daily_slot.unwrap();
    let calls = connected.calls("GET me/accounts");
    connected.advance(connected.clock.now().until(slot) + Duration::from_secs(1));
    crate::support::eventually("the daily poll", || async {
        let records = connected
            .deployment
            .store
            .list_records(RecordKind::DailyPoll, None, 10)
            .await
            .unwrap();
        records.first().map(drop)
    })
    .await;
    assert_eq!(connected.calls("GET me/accounts"), calls + 1);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_sealed_and_can_be_opened_after_a_restart() {
    let connected = connected().await;
    let tokens = connected
        .deployment
        .store
        .list_records(RecordKind::PageToken, None, 10)
        .await
        .unwrap();
    assert_eq!(tokens.len(), 3);
    for (_, stored) in tokens {
        let text = stored.value.to_string();
        assert!(
            !text.contains("EAAS") && stored.value["sealed"]["key_id"] != Json::Null,
            "{text}"
        );
    }
    // A worker that starts later can open the tokens.
    let storage = &connected.deployment.storage;
    let queue = connected.deployment.roles[0].1.backends.queue.clone();
    let store = connected.deployment.store.clone();
    let context = crate::support::deployment::worker_context(storage, queue, store.clone());
    let user = connected.connection().await.user;
    let key = common::records::token::user_key(&user);
    let stored = common::records::load_record::<common::records::token::StoredToken>(&*store, &key)
        .await
        .unwrap()
        .unwrap();
    let opened =
        common::records::token::open_token(&key, &stored.value, &context.keyring.keys().unwrap());
    assert!(opened.unwrap().is_some());
    connected.finish().await;
}
