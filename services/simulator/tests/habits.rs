//! The sender's habits, against a callback that counts what it gets.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Map, Value, json};
use simulator::bytes::signature_256;
use simulator::delivery::Faults;
use simulator::facebook::App;
use simulator::{Options, Simulator};
use tokio::net::TcpListener;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What a callback got, and how often it refuses first.
#[derive(Debug, Default)]
struct Callback {
    bodies: Mutex<Vec<String>>,
    refusals: Mutex<u32>,
}

async fn receive(
    State(callback): State<Arc<Callback>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    assert_eq!(
        header("x-hub-signature-256"),
        Some(signature_256(SECRET, &body).as_str())
    );
    assert!(header("x-hub-signature").is_some_and(|value| value.starts_with("sha1=")));
    assert_eq!(header("user-agent"), Some("facebookexternalua"));
    assert_eq!(header("content-type"), Some("application/json"));
    callback
        .bodies
        .lock()
        .unwrap()
        .push(String::from_utf8(body.to_vec()).unwrap());
    let mut refusals = callback.refusals.lock().unwrap();
    match refusals.checked_sub(1) {
        Some(left) => {
            *refusals = left;
            StatusCode::SERVICE_UNAVAILABLE
        }
        None => StatusCode::OK,
    }
}

fn fields(json: &Value) -> Map<String, Value> {
    json.as_object().unwrap().clone()
}

/// Renames Page 7 `changes` times under these habits; answers with what the callback got.
async fn play(faults: Faults, refusals: u32, changes: u32) -> Vec<String> {
    let callback = Arc::new(Callback {
        refusals: Mutex::new(refusals),
        ..Callback::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new()
        .route("/", post(receive))
        .with_state(callback.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let options = Options {
        callback: Some(address),
        app: App {
            id: "100200300400500".to_owned(),
            secret: SECRET.to_owned(),
            redirect_uris: Vec::new(),
        },
        seed: 7,
        faults,
    };
    let simulator = Simulator::start(&options);
    simulator
        .put_page(&fields(&json!({"id": "7", "name": "before"})))
        .unwrap();
    for n in 0..changes {
        let change = json!({"name": format!("é{n}"), "phone": format!("{n}"), "fan_count": n});
        simulator.change("7", fields(&change)).unwrap();
    }
    simulator.tally().settled().await;
    callback.bodies.lock().unwrap().clone()
}

const PLAIN: Faults = Faults {
    loss: 0.0,
    delay_seconds: 0,
    hold: false,
    unsubscribe_after_seconds: None,
    hurry: 1.0,
    duplicate: 0.0,
    reorder: 0.0,
    batch: 0.0,
    include_values: true,
    number_ids: false,
    millisecond_times: false,
};

fn entries(bodies: &[String]) -> Vec<Value> {
    let parse = |body: &String| {
        serde_json::from_str::<Value>(body).unwrap()["entry"]
            .as_array()
            .unwrap()
            .clone()
    };
    bodies.iter().flat_map(parse).collect()
}

#[tokio::test]
async fn a_name_carries_its_value_a_phone_does_not_and_a_counter_has_no_webhook() {
    let bodies = play(PLAIN, 0, 1).await;
    assert_eq!(bodies.len(), 2, "{bodies:?}");
    assert!(
        bodies
            .iter()
            .any(|body| body.contains(r#"{"field":"name","value":"\u00e90"}"#)),
        "{bodies:?}"
    );
    assert!(
        bodies
            .iter()
            .any(|body| body.contains(r#"[{"field":"phone"}]"#)),
        "{bodies:?}"
    );
}

#[tokio::test]
async fn without_values_entries_carry_changed_fields() {
    let bodies = play(
        Faults {
            include_values: false,
            ..PLAIN
        },
        0,
        1,
    )
    .await;
    let entries = entries(&bodies);
    assert!(
        entries
            .iter()
            .all(|entry| entry["changed_fields"].is_array() && entry.get("changes").is_none())
    );
}

#[tokio::test]
async fn changes_that_wait_together_travel_together() {
    let bodies = play(
        Faults {
            batch: 1.0,
            ..PLAIN
        },
        0,
        20,
    )
    .await;
    assert!(
        bodies.len() < 40,
        "{} deliveries of 40 changes",
        bodies.len()
    );
    let changes: usize = entries(&bodies)
        .iter()
        .map(|entry| entry["changes"].as_array().unwrap().len())
        .sum();
    assert_eq!(changes, 40);
}

#[tokio::test]
async fn a_delivery_may_come_twice_and_late() {
    let twice = play(
        Faults {
            duplicate: 1.0,
            ..PLAIN
        },
        0,
        5,
    )
    .await;
    assert!(
        twice.len() >= 15,
        "{} of 10 deliveries sent twice",
        twice.len()
    );
    let late = play(
        Faults {
            reorder: 0.5,
            ..PLAIN
        },
        0,
        20,
    )
    .await;
    assert_eq!(late.len(), 40, "late, but none is left out");
}

#[tokio::test]
async fn what_is_not_answered_200_is_sent_again() {
    let bodies = play(PLAIN, 2, 1).await;
    assert_eq!(bodies.len(), 4, "two deliveries, two refusals: {bodies:?}");
}
