//! A Messenger bot uses the same Facebook app: pagesync replaces neither its callback nor its webhook
//! fields, accepts the webhooks that it passes on, and names what it drops.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use common::records::app::{self, App};
use common::records::page_subscription::{self, PageSubscription};
use common::records::{load_record, put_write, write_records};
use model::id::PageId;
use serde_json::{Value as Json, json};
use simulator::facebook::AppSubscription;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};

const DAY: Duration = Duration::from_secs(25 * 3600);

async fn start(extra: &[(&str, &str)]) -> ConnectedDeployment {
    let options = DeploymentOptions {
        extra,
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    ConnectedDeployment::start(BACKEND, options).await
}

async fn load_app(connected: &ConnectedDeployment) -> App {
    let stored = load_record::<App>(&*connected.deployment.store, &app::key()).await;
    stored.unwrap().unwrap().value
}

fn subscribe_app(connected: &ConnectedDeployment, callback: &str, fields: &[&str]) {
    connected.simulator.facebook().app_subscription = Some(AppSubscription {
        callback: callback.to_owned(),
        include_values: true,
        fields: fields.iter().map(|name| (*name).to_owned()).collect(),
    });
}

fn callback(connected: &ConnectedDeployment) -> String {
    let subscription = connected.simulator.facebook().app_subscription.clone();
    subscription.unwrap().callback
}

async fn subscription(connected: &ConnectedDeployment, n: usize) -> PageSubscription {
    let key = page_subscription::key(&PageId::parse(&page_id_text(n)).unwrap());
    let stored = load_record::<PageSubscription>(&*connected.deployment.store, &key).await;
    stored
        .unwrap()
        .map(|stored| stored.value)
        .unwrap_or_default()
}

fn subscribed(connected: &ConnectedDeployment, n: usize) -> BTreeSet<String> {
    let subscriptions = &connected.simulator.facebook().page_subscriptions;
    subscriptions
        .get(&page_id_text(n))
        .cloned()
        .unwrap_or_default()
}

fn check(checks: &Json, name: &str) -> Json {
    let mut checks = checks.as_array().unwrap().iter();
    checks.find(|check| check["check"] == name).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callback_of_a_program_that_receives_messages_is_never_replaced() {
    let connected = start(&[("PAGESYNC_REPLACE_CALLBACK", "true")]).await;
    eventually("the app subscription", || async {
        load_app(&connected).await.callback
    })
    .await;
    subscribe_app(
        &connected,
        "https://bot.example/hook",
        &["messages", "name"],
    );
    connected.advance(DAY);
    let problem = eventually("the problem", || async {
        load_app(&connected).await.problem
    })
    .await;
    assert!(
        problem.contains("receives messages, which pagesync does not handle"),
        "{problem}"
    );
    assert_eq!(callback(&connected), "https://bot.example/hook");
    let found = check(&connected.json(&["doctor"]), "app subscription");
    assert_eq!(found["state"], "failed");
    assert!(
        found["fix"]
            .as_str()
            .unwrap()
            .starts_with("do not replace the callback"),
        "{found}"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_this_deployment_set_earlier_is_replaced_without_a_setting() {
    let connected = start(&[]).await;
    eventually("the app subscription", || async {
        load_app(&connected).await.callback
    })
    .await;
    let old = "https://old-tunnel.example/facebook/webhook";
    let store = &*connected.deployment.store;
    let mut app = load_app(&connected).await;
    app.callback = Some(old.to_owned());
    write_records(store, vec![put_write(app::key(), &app, None, None)])
        .await
        .unwrap();
    subscribe_app(&connected, old, &["messages", "name"]);
    connected.advance(DAY);
    eventually("the new address", || async {
        callback(&connected)
            .starts_with(&connected.public)
            .then_some(())
    })
    .await;
    connected.finish().await;
}

/// What a bot has received, and where it passes webhooks on to.
#[derive(Clone)]
struct Bot {
    received: Arc<Mutex<Vec<Bytes>>>,
    pagesync: String,
}

/// Answers Facebook's verification.
async fn verify(Query(query): Query<Vec<(String, String)>>) -> String {
    let challenge = query.into_iter().find(|(name, _)| name == "hub.challenge");
    challenge.unwrap().1
}

/// Receives a webhook and passes its bytes and its signature headers on, as
/// `docs/how-to/facebook-app.md` describes.
async fn pass_on(State(bot): State<Bot>, headers: HeaderMap, body: Bytes) -> StatusCode {
    bot.received.lock().unwrap().push(body.clone());
    let mut request = crate::support::client().post(&bot.pagesync).body(body);
    for name in ["content-type", "x-hub-signature-256", "x-hub-signature"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value.clone());
        }
    }
    let status = request.send().await.unwrap().status().as_u16();
    StatusCode::from_u16(status).unwrap()
}

/// Starts a bot. Returns its address.
async fn start_bot(pagesync: &str) -> (Bot, String) {
    let bot = Bot {
        received: Arc::default(),
        pagesync: format!("{pagesync}/facebook/webhook"),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/hook", listener.local_addr().unwrap());
    let routes = Router::new().route("/hook", get(verify).post(pass_on));
    let routes = routes.with_state(bot.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (bot, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_a_bot_passes_on_are_applied_and_messages_are_named_as_dropped() {
    let connected = start(&[("PAGESYNC_WEBHOOKS_PASSED_ON", "true")]).await;
    let (bot, address) = start_bot(&connected.public).await;
    let tracked = crate::support::command_config().tracked_fields;
    let mut fields = model::webhook_field::webhook_fields(&tracked);
    fields.push("messages");
    subscribe_app(&connected, &address, &fields);
    assert_eq!(connected.connect().await.0, 200);
    let fields = json!({"name": "Passed on"}).as_object().unwrap().clone();
    connected
        .simulator
        .change(&page_id_text(0), fields)
        .unwrap();
    eventually("the new name", || async {
        (connected.field(0, "name").await == "Passed on").then_some(())
    })
    .await;
    assert!(!bot.received.lock().unwrap().is_empty());
    assert_eq!(callback(&connected), address, "the bot keeps the callback");
    let message = json!({"object": "page", "entry": [{"id": page_id_text(0), "time": 1_790_000_000_000_u64,
        "messaging": [{"sender": {"id": "1"}, "message": {"text": "private words"}}]}]});
    assert_eq!(connected.deployment.deliver(message.to_string()).await, 200);
    let checks = eventually("the dropped message in doctor", || async {
        let checks = connected.json(&["doctor"]);
        let dropped = check(&checks, "dropped webhooks");
        (dropped["detail"] != "none was dropped").then_some(checks)
    })
    .await;
    let dropped = check(&checks, "dropped webhooks");
    assert!(
        dropped["detail"].as_str().unwrap().contains("1 x "),
        "{dropped}"
    );
    assert!(!checks.to_string().contains("private words"));
    assert_eq!(
        check(&checks, "app subscription")["state"],
        "ok",
        "{checks:#}"
    );
    assert_eq!(
        load_app(&connected).await.callback,
        None,
        "the address is not that of pagesync"
    );
    connected.finish().await;
}

/// Without a bot that passes them on, dropped messages are worth a warning.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_messages_are_a_warning_with_their_number() {
    let connected = start(&[]).await;
    let message = json!({"object": "page", "entry": [{"id": "7", "time": 1_790_000_000_000_u64,
        "changes": [{"field": "feed", "value": {"message": "private words"}}]}]});
    for _ in 0..2 {
        assert_eq!(connected.deployment.deliver(message.to_string()).await, 200);
    }
    eventually("the dropped posts in doctor", || async {
        let checks = connected.json(&["doctor"]);
        let dropped = check(&checks, "dropped webhooks");
        assert!(!checks.to_string().contains("private words"));
        let is_named = dropped["detail"].as_str().unwrap().contains("2 x feed");
        (is_named && dropped["state"] == "warning").then_some(())
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_the_bot_is_not_dropped_where_the_permission_for_it_is_missing() {
    let connected = start(&[]).await;
    let messages = BTreeSet::from(["messages".to_owned()]);
    let of_bot = (page_id_text(0), messages.clone());
    connected
        .simulator
        .facebook()
        .page_subscriptions
        .extend([of_bot]);
    assert_eq!(connected.connect().await.0, 200);
    let problem = subscription(&connected, 0).await.problem.unwrap();
    for part in [
        "pages_messaging",
        "keep messages",
        "PAGESYNC_SCOPES",
        "--rerequest",
    ] {
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(subscribed(&connected, 0), messages);
    assert!(
        subscribed(&connected, 1).contains("name"),
        "the other Pages are subscribed"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_names_no_field_leaves_out_only_the_refused_fields() {
    let connected = start(&[]).await;
    let refused = ["phone", "website"].map(ToOwned::to_owned);
    connected.simulator.facebook().graph_faults.unnamed_refusals = refused.clone().into();
    assert_eq!(connected.connect().await.0, 200);
    for n in 0..3 {
        let found = subscription(&connected, n).await;
        assert_eq!(found.refused, refused.clone().into());
        assert!(found.problem.unwrap().contains("phone, website"));
        let fields = subscribed(&connected, n);
        assert!(
            fields.contains("name") && !fields.contains("phone"),
            "{fields:?}"
        );
        assert_eq!(fields, found.fields);
    }
    connected.finish().await;
}
