//! Tests of the control API: refused requests, signed requests, and scenario files.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use reqwest::Method;
use serde_json::{Value, json};
use simulator::delivery::DeliveryFaults;
use simulator::scenario::Scenario;
use simulator::signed_request;

use super::{Fixture, SECRET};

#[tokio::test]
async fn requests_that_would_have_no_effect_are_refused() {
    let fixture = Fixture::new(DeliveryFaults::default()).await;
    let callback = json!({"callback": "http://127.0.0.1:9/"});
    let reply = |edge: &str| json!([{ "edge": edge }]);
    let field = |name: &str| json!({ name: "x" });
    let unknown_fault = json!([{"edge": "GET me", "fault": "190/1"}]);
    let unknown_field = json!([{"id": "5", "nmae": "x"}]);
    let unknown_user = json!({"user": "4711", "subcode": 460});
    let deauthorize = "/_sim/people/4711/deauthorize";
    let data_deletion = "/_sim/people/4711/data-deletion";
    let permission = reply("DELETE me/permissions/email");
    for (method, path, body, status) in [
        (Method::PUT, "/_sim/replies", unknown_fault, 400),
        (Method::PUT, "/_sim/replies", reply("GET me/acounts"), 400),
        (Method::PUT, "/_sim/replies", reply("me"), 400),
        (Method::PUT, "/_sim/replies", permission, 204),
        (Method::PATCH, "/_sim/pages/1", field("nmae"), 400),
        (Method::PATCH, "/_sim/pages/1", field("id"), 400),
        (Method::PATCH, "/_sim/pages/4711", field("name"), 404),
        (Method::PATCH, "/_sim/pages/1", field("name"), 200),
        (Method::POST, "/_sim/pages", unknown_field, 400),
        (Method::POST, deauthorize, callback.clone(), 404),
        (Method::POST, data_deletion, callback, 404),
        (Method::DELETE, "/_sim/tokens", unknown_user, 404),
    ] {
        let (answered, answer) = fixture.call(method, path, body.clone()).await;
        assert_eq!(answered, status, "{path} {body}: {answer}");
    }
}

#[tokio::test]
async fn signed_requests_have_the_documented_form() {
    // The simulator sorts the keys of the payload, unlike the example in the documentation, so
    // the decoded payloads are compared.
    let fixture = Fixture::new(DeliveryFaults::default()).await;
    let text = signed_request::signed_request_for(&fixture.simulator, "218471");
    let (signature, payload) = text.split_once('.').unwrap();
    assert_eq!(
        signature.len(),
        43,
        "HMAC-SHA256 in base64url without padding"
    );
    assert!(!payload.contains('='));
    let decoded: Value = serde_json::from_slice(&BASE64URL.decode(payload).unwrap()).unwrap();
    assert_eq!(text, signed_request::sign(SECRET, &decoded));
    let (status, answer) = fixture
        .call(
            Method::POST,
            "/_sim/people/200000000000001/data-deletion",
            json!({"callback": fixture.callback_url}),
        )
        .await;
    assert_eq!((status, &answer["status"]), (200, &json!(200)));
    let callback = fixture.callback.lock().unwrap();
    let form = callback.bodies.last().unwrap();
    assert!(
        form.as_str().unwrap().starts_with("signed_request="),
        "{form}"
    );
}

#[tokio::test]
async fn every_scenario_file_is_played_to_its_end() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let readme = include_str!("../../README.md");
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
        let fixture = Fixture::new(DeliveryFaults::default()).await;
        scenario.play(fixture.simulator.clone()).await;
        played += 1;
    }
    assert!(played >= 6);
    for invalid in [
        "{}",
        r#"{"steps":[{"do":{"delivery_faults":{"loss":2}}}]}"#,
        r#"{"steps":[{"do":{"dance":{}}}]}"#,
        r#"{"steps":[{"do":{"graph_faults":{"errors":{"190/1":1}}}}]}"#,
    ] {
        assert!(Scenario::parse(invalid).is_err(), "{invalid}");
    }
}
