//! Tests of the faults of deliveries and of Graph, and of the control API that sets them.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]

mod control;
mod delivery;
mod graph_faults;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use reqwest::Method;
use serde_json::{Map, Value, json};
use simulator::delivery::DeliveryFaults;
use simulator::facebook::App;
use simulator::{Options, Simulator};
use tokio::net::TcpListener;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const APP_TOKEN: &str = "100200300400500|0123456789abcdef0123456789abcdef";

/// The bodies that a callback received, and the status that it answers with.
struct Callback {
    bodies: Vec<Value>,
    status: StatusCode,
}

/// A simulator with ten Pages, and a callback that is subscribed to them.
struct Fixture {
    simulator: Simulator,
    url: String,
    callback: Arc<Mutex<Callback>>,
    callback_url: String,
}

async fn listen(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn receive(State(callback): State<Arc<Mutex<Callback>>>, body: String) -> StatusCode {
    let mut callback = callback.lock().unwrap();
    let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
    callback.bodies.push(body);
    callback.status
}

impl Fixture {
    async fn new(delivery_faults: DeliveryFaults) -> Self {
        let callback = Arc::new(Mutex::new(Callback {
            bodies: Vec::new(),
            status: StatusCode::OK,
        }));
        let router = Router::new()
            .route("/", post(receive))
            .with_state(callback.clone());
        let callback_url = listen(router).await;
        let simulator = Simulator::start(&Options {
            app: App {
                id: "100200300400500".to_owned(),
                secret: SECRET.to_owned(),
                redirect_uris: Vec::new(),
            },
            callback: Some(callback_url.clone()),
            seed: 3,
            delivery_faults,
        });
        for n in 1..=10 {
            let page = json!({"id": n.to_string(), "name": "before"});
            simulator.put_page(page.as_object().unwrap()).unwrap();
        }
        let url = listen(simulator::router(simulator.clone())).await;
        Self {
            simulator,
            url,
            callback,
            callback_url,
        }
    }

    /// Changes the name of Page `n`.
    fn rename(&self, n: usize, name: &str) {
        let fields: Map<String, Value> = json!({ "name": name }).as_object().unwrap().clone();
        self.simulator.change(&n.to_string(), fields).unwrap();
    }

    /// Waits until every event is finished.
    async fn finish_deliveries(&self) {
        self.simulator.delivery_counts().all_finished().await;
    }

    /// Returns the entries that the callback received.
    fn received_entries(&self) -> Vec<Value> {
        let callback = self.callback.lock().unwrap();
        let entries = callback
            .bodies
            .iter()
            .flat_map(|body| body["entry"].as_array().unwrap());
        entries.cloned().collect()
    }

    /// Sends JSON to the simulator, and returns the status and the body of the answer.
    async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.url));
        let answer = request
            .bearer_auth(APP_TOKEN)
            .json(&body)
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    /// Reads the app subscription from Graph.
    async fn read_graph(&self) -> reqwest::Result<reqwest::Response> {
        let url = format!("{}/v25.0/100200300400500/subscriptions", self.url);
        let request = reqwest::Client::new().get(url).bearer_auth(APP_TOKEN);
        request.timeout(Duration::from_secs(10)).send().await
    }
}
