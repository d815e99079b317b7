//! Tests of the errors of Graph, spoiled answers, and the app's rate limit.

use reqwest::Method;
use serde_json::{Value, json};
use simulator::delivery::DeliveryFaults;
use simulator::errors::GRAPH_ERRORS;

use super::Fixture;

#[tokio::test]
async fn every_error_is_answered_with_its_status_and_its_code() {
    let fixture = Fixture::new(DeliveryFaults::default()).await;
    for error in &GRAPH_ERRORS {
        let replies = json!([{"edge": "GET {id}/subscriptions", "fault": error.name}]);
        let (status, _) = fixture.call(Method::PUT, "/_sim/replies", replies).await;
        assert_eq!(status, 204);
        let answer = fixture.read_graph().await.unwrap();
        assert_eq!(answer.status().as_u16(), error.status, "{}", error.name);
        let body: Value = answer.json().await.unwrap();
        let code = error.name.split('/').next().unwrap();
        assert_eq!(body["error"]["code"].to_string(), code);
        assert_eq!(body["error"]["message"], error.message);
    }
}

#[tokio::test]
async fn each_answer_fault_spoils_the_answer_in_its_way() {
    let fixture = Fixture::new(DeliveryFaults::default()).await;
    for (name, status, beginning) in [
        ("html", 502, Some("<html>")),
        ("truncated", 200, Some("{\"data\"")),
        ("empty", 200, Some("")),
        ("false", 200, Some("false")),
        ("wrong_type", 200, Some("{\"data\"")),
        ("slow", 200, Some("{\"data\"")),
        ("reset", 200, None),
        ("too_much", 500, Some("{\"error\"")),
    ] {
        let faults = json!({"errors": { name: 1.0 }, "slow_answer_seconds": 0});
        let (set, _) = fixture
            .call(Method::PUT, "/_sim/graph-faults", faults)
            .await;
        assert_eq!(set, 204);
        let answer = match fixture.read_graph().await {
            Ok(answer) => answer,
            // The connection can break before the client reads the first byte.
            Err(_) if name == "reset" => continue,
            Err(error) => panic!("{name}: {error}"),
        };
        assert_eq!(answer.status().as_u16(), status, "{name}");
        let content_type = answer.headers()["content-type"].to_str().unwrap();
        assert_eq!(
            content_type.starts_with("text/javascript"),
            name == "wrong_type"
        );
        let text = answer.text().await.ok();
        match beginning {
            Some(beginning) => assert!(
                text.as_ref().unwrap().starts_with(beginning),
                "{name}: {text:?}"
            ),
            None => assert_eq!(text, None, "{name}: the connection breaks"),
        }
        let is_json = |text: &String| serde_json::from_str::<Value>(text).is_ok();
        assert_eq!(
            text.as_ref().is_some_and(is_json),
            !matches!(name, "html" | "truncated" | "empty" | "reset"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn calls_use_up_the_rate_limit_and_an_hour_later_it_is_unused() {
    let fixture = Fixture::new(DeliveryFaults::default()).await;
    fixture
        .simulator
        .facebook()
        .graph_faults
        .usage_percent_per_call = 30;
    for (used, status) in [(30, 200), (60, 200), (90, 200), (120, 403)] {
        let answer = fixture.read_graph().await.unwrap();
        let usage: Value =
            serde_json::from_str(answer.headers()["x-app-usage"].to_str().unwrap()).unwrap();
        assert_eq!(usage["call_count"], used);
        assert_eq!(answer.status().as_u16(), status);
    }
    fixture.simulator.facebook().clock_offset_seconds += 3601;
    let answer = fixture.read_graph().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
}
