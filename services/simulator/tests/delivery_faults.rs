//! Tests of the delivery faults, with a callback that records the bodies it receives.

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
use simulator::delivery::DeliveryFaults;
use simulator::facebook::App;
use simulator::{Options, Simulator};
use tokio::net::TcpListener;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The bodies that a callback received, and the number of deliveries that it still refuses.
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

/// Changes the name, the phone and a counter of Page 7 `changes` times. Returns the bodies that a
/// callback received. The callback refuses the first `refusals` deliveries.
async fn deliver(faults: DeliveryFaults, refusals: u32, changes: u32) -> Vec<String> {
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
        delivery_faults: faults,
    };
    let simulator = Simulator::start(&options);
    simulator
        .put_page(&fields(&json!({"id": "7", "name": "before"})))
        .unwrap();
    for n in 0..changes {
        let change = json!({"name": format!("é{n}"), "phone": format!("{n}"), "fan_count": n});
        simulator.change("7", fields(&change)).unwrap();
    }
    simulator.delivery_counts().all_finished().await;
    callback.bodies.lock().unwrap().clone()
}

/// Delivery faults without any fault and without batches.
const PLAIN: DeliveryFaults = DeliveryFaults {
    loss: 0.0,
    duplicate: 0.0,
    reorder: 0.0,
    batch: 0.0,
    delay_seconds: 0,
    hold: false,
    unsubscribe_after_seconds: None,
    retry_speed: 1.0,
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
async fn a_name_has_a_value_a_phone_has_none_and_a_counter_causes_no_webhook() {
    let bodies = deliver(PLAIN, 0, 1).await;
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
async fn entries_without_values_carry_changed_fields() {
    let faults = DeliveryFaults {
        include_values: false,
        ..PLAIN
    };
    let bodies = deliver(faults, 0, 1).await;
    let entries = entries(&bodies);
    assert!(
        entries
            .iter()
            .all(|entry| entry["changed_fields"].is_array() && entry.get("changes").is_none())
    );
}

#[tokio::test]
async fn waiting_changes_share_deliveries() {
    let faults = DeliveryFaults {
        batch: 1.0,
        ..PLAIN
    };
    let bodies = deliver(faults, 0, 20).await;
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
async fn deliveries_can_be_duplicated_and_reordered() {
    let faults = DeliveryFaults {
        duplicate: 1.0,
        ..PLAIN
    };
    let duplicated = deliver(faults, 0, 5).await;
    assert!(
        duplicated.len() >= 15,
        "only {} requests for 10 deliveries, each duplicated",
        duplicated.len()
    );
    let faults = DeliveryFaults {
        reorder: 0.5,
        ..PLAIN
    };
    let reordered = deliver(faults, 0, 20).await;
    assert_eq!(reordered.len(), 40, "reordered deliveries are not lost");
}

#[tokio::test]
async fn a_delivery_that_is_not_answered_200_is_sent_again() {
    let bodies = deliver(PLAIN, 2, 1).await;
    assert_eq!(bodies.len(), 4, "two deliveries, two refusals: {bodies:?}");
}
