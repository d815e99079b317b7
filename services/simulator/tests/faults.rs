//! What goes wrong: loss, backlogs, unsubscribing, every error, spoiled answers, scenario files.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Map, Value, json};
use simulator::delivery::Faults;
use simulator::errors::ROWS;
use simulator::facebook::App;
use simulator::scenario::Scenario;
use simulator::{Options, Simulator, signed_request};
use tokio::net::TcpListener;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const APP_TOKEN: &str = "100200300400500|0123456789abcdef0123456789abcdef";

/// Bodies that came, and what is answered to them.
type Callback = Arc<Mutex<(Vec<Value>, StatusCode)>>;

struct Stage {
    simulator: Simulator,
    url: String,
    callback: Callback,
    callback_url: String,
}

async fn listen(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn receive(State(callback): State<Callback>, body: String) -> StatusCode {
    let mut callback = callback.lock().unwrap();
    let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
    callback.0.push(body);
    callback.1
}

impl Stage {
    async fn new(faults: Faults) -> Self {
        let callback: Callback = Arc::new(Mutex::new((Vec::new(), StatusCode::OK)));
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
            faults,
        });
        for n in 1..=10 {
            let page = json!({"id": n.to_string(), "name": "before"});
            simulator.put_page(page.as_object().unwrap()).unwrap();
        }
        let url = listen(simulator::control::router(simulator.clone())).await;
        Self {
            simulator,
            url,
            callback,
            callback_url,
        }
    }

    fn rename(&self, n: usize, name: &str) {
        let fields: Map<String, Value> = json!({ "name": name }).as_object().unwrap().clone();
        self.simulator.change(&n.to_string(), fields).unwrap();
    }

    fn came(&self) -> Vec<String> {
        let callback = self.callback.lock().unwrap();
        let entries = callback
            .0
            .iter()
            .flat_map(|body| body["entry"].as_array().unwrap());
        entries
            .map(|entry| entry["id"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Value) -> (u16, Value) {
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

    async fn get(&self) -> reqwest::Result<reqwest::Response> {
        let url = format!("{}/v25.0/100200300400500/subscriptions", self.url);
        let request = reqwest::Client::new().get(url).bearer_auth(APP_TOKEN);
        request.timeout(Duration::from_secs(10)).send().await
    }
}

#[tokio::test]
async fn loss_is_counted_and_what_is_not_lost_arrives() {
    let stage = Stage::new(Faults {
        loss: 0.3,
        batch: 0.5,
        ..Faults::default()
    })
    .await;
    for round in 0..20 {
        for n in 1..=10 {
            stage.rename(n, &format!("name {round}"));
        }
    }
    stage.simulator.tally().settled().await;
    let changes = stage
        .callback
        .lock()
        .unwrap()
        .0
        .iter()
        .flat_map(|body| body["entry"].as_array().unwrap().clone())
        .map(|entry| entry["changes"].as_array().unwrap().len() as u64)
        .sum::<u64>();
    let lost = stage.simulator.tally().lost();
    assert_eq!(changes + lost, 200);
    assert!((30..90).contains(&lost), "{lost} of 200 with 30 %");
}

#[tokio::test]
async fn a_backlog_is_held_and_comes_the_latest_first() {
    let held = Faults {
        hold: true,
        batch: 0.0,
        ..Faults::default()
    };
    let stage = Stage::new(held).await;
    for n in 1..=5 {
        stage.rename(n, "held");
    }
    while stage.simulator.tally().held() < 5 {
        tokio::task::yield_now().await;
    }
    assert!(stage.came().is_empty());
    stage.simulator.set_faults(Faults {
        batch: 0.0,
        ..Faults::default()
    });
    stage.simulator.tally().settled().await;
    let mut came = stage.came();
    came.sort();
    assert_eq!(came, ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn the_app_is_taken_off_a_page_whose_deliveries_fail_for_too_long() {
    let stage = Stage::new(Faults {
        unsubscribe_after_seconds: Some(3600),
        hurry: 1000.0,
        ..Faults::default()
    })
    .await;
    {
        let mut facebook = stage.simulator.facebook();
        facebook.preinstalled = false;
        for page in ["1", "2"] {
            facebook
                .installed
                .insert(page.to_owned(), ["name".to_owned()].into());
        }
    }
    stage.callback.lock().unwrap().1 = StatusCode::INTERNAL_SERVER_ERROR;
    stage.rename(1, "refused");
    stage.simulator.tally().settled().await;
    assert_eq!(stage.simulator.facebook().installed.len(), 2, "not at once");
    stage.simulator.facebook().ahead += 3700;
    stage.rename(1, "refused again");
    stage.simulator.tally().settled().await;
    let installed: Vec<String> = stage
        .simulator
        .facebook()
        .installed
        .keys()
        .cloned()
        .collect();
    assert_eq!(
        installed,
        ["2"],
        "and only the Page whose deliveries failed"
    );
}

#[tokio::test]
async fn every_error_is_answered_with_its_status_and_its_code() {
    let stage = Stage::new(Faults::default()).await;
    for row in &ROWS {
        let replies = json!([{"edge": "GET {id}/subscriptions", "fault": row.name}]);
        assert_eq!(
            stage
                .call(reqwest::Method::PUT, "/_sim/replies", replies)
                .await
                .0,
            204
        );
        let answer = stage.get().await.unwrap();
        assert_eq!(answer.status().as_u16(), row.status, "{}", row.name);
        let body: Value = answer.json().await.unwrap();
        let code = row.name.split('/').next().unwrap();
        assert_eq!(body["error"]["code"].to_string(), code);
        assert_eq!(body["error"]["message"], row.message);
    }
}

/// What would silently do nothing is refused.
#[tokio::test]
async fn what_names_nothing_is_refused() {
    use reqwest::Method;
    let stage = Stage::new(Faults::default()).await;
    let to = json!({"callback": "http://127.0.0.1:9/"});
    let page = |name: &str| json!({ name: "x" });
    for (method, path, body, status) in [
        (
            Method::PUT,
            "/_sim/replies",
            json!([{"edge": "GET me", "fault": "190/1"}]),
            400,
        ),
        (
            Method::PUT,
            "/_sim/replies",
            json!([{"edge": "GET me/acounts"}]),
            400,
        ),
        (Method::PUT, "/_sim/replies", json!([{"edge": "me"}]), 400),
        (
            Method::PUT,
            "/_sim/replies",
            json!([{"edge": "DELETE me/permissions/email"}]),
            204,
        ),
        (Method::PATCH, "/_sim/pages/1", page("nmae"), 400),
        (Method::PATCH, "/_sim/pages/1", page("id"), 400),
        (Method::PATCH, "/_sim/pages/4711", page("name"), 404),
        (Method::PATCH, "/_sim/pages/1", page("name"), 200),
        (
            Method::POST,
            "/_sim/pages",
            json!([{"id": "5", "nmae": "x"}]),
            400,
        ),
        (
            Method::POST,
            "/_sim/people/4711/deauthorize",
            to.clone(),
            404,
        ),
        (Method::POST, "/_sim/people/4711/data-deletion", to, 404),
        (
            Method::DELETE,
            "/_sim/tokens",
            json!({"user": "4711", "subcode": 460}),
            404,
        ),
    ] {
        let (answered, said) = stage.call(method, path, body.clone()).await;
        assert_eq!(answered, status, "{path} {body}: {said}");
    }
}

#[tokio::test]
async fn answers_are_spoiled_by_chance_and_by_name() {
    let stage = Stage::new(Faults::default()).await;
    let habits = |errors: Value| json!({"errors": errors, "slow_seconds": 0});
    for (name, status, body) in [
        ("html", 502, Some("<html>")),
        ("truncated", 200, Some("{\"data\"")),
        ("empty", 200, Some("")),
        ("false", 200, Some("false")),
        ("wrong_type", 200, Some("{\"data\"")),
        ("slow", 200, Some("{\"data\"")),
        ("reset", 200, None),
        ("too_much", 500, Some("{\"error\"")),
    ] {
        let errors = habits(json!({ name: 1.0 }));
        assert_eq!(
            stage
                .call(reqwest::Method::PUT, "/_sim/habits", errors)
                .await
                .0,
            204
        );
        let answer = match stage.get().await {
            Ok(answer) => answer,
            // It may break before the first byte is read, too.
            Err(_) if name == "reset" => continue,
            Err(error) => panic!("{name}: {error}"),
        };
        assert_eq!(answer.status().as_u16(), status, "{name}");
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(kind.starts_with("text/javascript"), name == "wrong_type");
        let text = answer.text().await.ok();
        match body {
            Some(begin) => assert!(
                text.as_ref().unwrap().starts_with(begin),
                "{name}: {text:?}"
            ),
            None => assert_eq!(text, None, "{name}: the connection breaks"),
        }
        let is_whole = |text: &String| serde_json::from_str::<Value>(text).is_ok();
        assert_eq!(
            text.as_ref().is_some_and(is_whole),
            !matches!(name, "html" | "truncated" | "empty" | "reset"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_limit_fills_with_calls_and_is_empty_an_hour_later() {
    let stage = Stage::new(Faults::default()).await;
    stage.simulator.facebook().habits.usage_step = 30;
    for (used, status) in [(30, 200), (60, 200), (90, 200), (120, 403)] {
        let answer = stage.get().await.unwrap();
        let usage: Value =
            serde_json::from_str(answer.headers()["x-app-usage"].to_str().unwrap()).unwrap();
        assert_eq!(usage["call_count"], used);
        assert_eq!(answer.status().as_u16(), status);
    }
    stage.simulator.facebook().ahead += 3601;
    assert_eq!(stage.get().await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn signed_requests_are_made_as_documented() {
    let secret = "0123456789abcdef0123456789abcdef";
    // The payload's keys are in the order of the documentation; ours sorts them, so the bytes are its.
    let stage = Stage::new(Faults::default()).await;
    let text = signed_request::about(&stage.simulator, "218471");
    let (signature, payload) = text.split_once('.').unwrap();
    assert_eq!(
        signature.len(),
        43,
        "HMAC-SHA256 in base64url without padding"
    );
    assert!(!payload.contains('='));
    assert_eq!(
        text,
        signed_request::sign(secret, &{
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
                .decode(payload)
                .unwrap();
            serde_json::from_slice::<Value>(&bytes).unwrap()
        })
    );
    let to = json!({"callback": stage.callback_url});
    let (status, answered) = stage
        .call(
            reqwest::Method::POST,
            "/_sim/people/200000000000001/data-deletion",
            to,
        )
        .await;
    assert_eq!((status, &answered["status"]), (200, &json!(200)));
    let form = stage.callback.lock().unwrap().0.last().unwrap().clone();
    assert!(
        form.as_str().unwrap().starts_with("signed_request="),
        "{form}"
    );
}

#[tokio::test]
async fn every_scenario_file_is_played_to_its_end() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let readme = include_str!("../README.md");
    let mut played = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let mut scenario = Scenario::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(
            !scenario.about.is_empty() && scenario.seed.is_some(),
            "{name}"
        );
        assert!(
            readme.contains(&format!("`{name}`")),
            "README.md does not name {name}"
        );
        for step in &mut scenario.steps {
            step.after_seconds = 0;
        }
        let stage = Stage::new(Faults::default()).await;
        scenario.play(stage.simulator.clone()).await;
        played += 1;
    }
    assert!(played >= 6);
    for bad in [
        "{}",
        r#"{"steps":[{"do":{"faults":{"loss":2}}}]}"#,
        r#"{"steps":[{"do":{"dance":{}}}]}"#,
        r#"{"steps":[{"do":{"habits":{"errors":{"190/1":1}}}}]}"#,
    ] {
        assert!(Scenario::parse(bad).is_err(), "{bad}");
    }
}
