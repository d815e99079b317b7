//! Tests of both layers of subscriptions.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use super::{APP, APP_TOKEN, Fixture, code_of, message_of};

/// Starts a callback that returns the challenge if the verify token is `right`. Returns the address
/// of the callback.
async fn callback() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/hook", listener.local_addr().unwrap());
    let verify = async |Query(query): Query<BTreeMap<String, String>>| {
        if query["hub.verify_token"] == "right" {
            query["hub.challenge"].clone()
        } else {
            "no".to_owned()
        }
    };
    let router = Router::new().route("/hook", get(verify).post(async || "ok"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Subscribes the app to name and phone with this token and verify token.
async fn subscribe_app(
    fixture: &Fixture,
    callback: &str,
    token: &str,
    verify_token: &str,
) -> (u16, Value) {
    let parameters = [
        ("object", "page"),
        ("callback_url", callback),
        ("verify_token", verify_token),
        ("include_values", "true"),
        ("fields", "name,phone"),
    ];
    let edge = format!("{APP}/subscriptions");
    if token == APP_TOKEN {
        return fixture
            .call_without_proof(Method::POST, &edge, token, &parameters)
            .await;
    }
    fixture.call(Method::POST, &edge, token, &parameters).await
}

/// Subscribes Page 1 to webhook fields.
async fn subscribe_page(fixture: &Fixture, token: &str, fields: &str) -> (u16, Value) {
    let parameters = [("subscribed_fields", fields)];
    fixture
        .call(Method::POST, "1/subscribed_apps", token, &parameters)
        .await
}

#[tokio::test]
async fn both_layers_are_needed_and_each_refuses_invalid_calls() {
    let callback = callback().await;
    let fixture = Fixture::new(2).await;
    let user = fixture.user_token().await;
    let page = fixture.page_token(&user).await;
    let (_, body) = subscribe_app(&fixture, &callback, &user, "right").await;
    assert_eq!(code_of(&body), (15, 0), "an app token is needed");
    let (_, body) = subscribe_app(&fixture, &callback, APP_TOKEN, "wrong").await;
    assert_eq!(code_of(&body), (2200, 0), "the verify token is wrong");
    let (status, _) = subscribe_app(&fixture, &callback, APP_TOKEN, "right").await;
    assert_eq!(status, 200);
    let (_, body) = subscribe_page(&fixture, &user, "name").await;
    assert_eq!(code_of(&body), (210, 0), "a Page token is needed");
    let (_, body) = subscribe_page(&fixture, &page, "mentions").await;
    let message = message_of(&body);
    assert!(message.ends_with("got \"mentions\"."), "{body}");
    let (status, body) = subscribe_page(&fixture, &page, "messages").await;
    assert_eq!((status, code_of(&body)), (403, (200, 0)));
    for (fields, count) in [("name,category", 2), ("name", 1)] {
        subscribe_page(&fixture, &page, fields).await;
        assert_eq!(
            fixture.simulator.facebook().page_subscriptions["1"].len(),
            count,
            "the list replaces the previous one"
        );
    }
    let change = |page: &str, fields: Value| {
        let fields = fields.as_object().cloned().unwrap_or_else(Map::new);
        fixture.simulator.change(page, fields).unwrap();
    };
    let events = || fixture.simulator.delivery_counts().to_json()["events"].as_u64();
    change("1", json!({"name": "New"}));
    assert_eq!(events(), Some(1), "both layers include the name");
    change("1", json!({"phone": "1", "category": "C"}));
    assert_eq!(
        events(),
        Some(1),
        "only the app is subscribed to the phone, and neither layer to the category"
    );
    change("2", json!({"name": "New"}));
    assert_eq!(events(), Some(1), "Page 2 has no Page subscription");
}
