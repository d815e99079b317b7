//! Tests of lists, reads of several objects at once, batches, and the language of values.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Fixture, code_of, message_of};

#[tokio::test]
async fn lists_are_split_into_result_pages_that_cursors_connect() {
    let fixture = Fixture::new(60).await;
    let token = fixture.user_token().await;
    let parameters = [("fields", "id"), ("summary", "1")];
    let (_, first) = fixture.get("me/accounts", &token, &parameters).await;
    assert_eq!(
        first["data"].as_array().unwrap().len(),
        25,
        "the default limit"
    );
    assert_eq!(first["summary"]["total_count"], 60);
    let after = first["paging"]["cursors"]["after"].as_str().unwrap();
    let parameters = [("limit", "50"), ("after", after)];
    let (_, last) = fixture.get("me/accounts", &token, &parameters).await;
    assert_eq!(
        (
            last["data"].as_array().unwrap().len(),
            &last["paging"]["next"]
        ),
        (35, &Value::Null)
    );
    let zero = [("limit", "0")];
    let (status, body) = fixture.get("me/accounts", &token, &zero).await;
    assert_eq!((status, code_of(&body)), (400, (100, 0)));
    let invalid = [("after", "!!")];
    let (_, body) = fixture.get("me/accounts", &token, &invalid).await;
    assert_eq!(code_of(&body), (100, 0));
}

#[tokio::test]
async fn several_ids_are_read_at_once_until_facebook_ended_this() {
    let fixture = Fixture::new(60).await;
    let token = fixture.user_token().await;
    // On 2026-10-26, the day before.
    let before = 1_793_059_200 - 86_400;
    fixture.set_time(before);
    let ids = |n: usize| {
        (1..=n)
            .map(|id| id.to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    let fifty = ids(50);
    let parameters = [("ids", fifty.as_str()), ("fields", "name")];
    let (_, body) = fixture.get("", &token, &parameters).await;
    assert_eq!(body["50"]["name"], "P50");
    let (_, body) = fixture.get("", &token, &[("ids", &ids(51))]).await;
    assert!(message_of(&body).contains("Too many IDs. Maximum: 50. Provided: 51."));
    let (_, body) = fixture.get("", &token, &[("ids", "1,999")]).await;
    assert_eq!(
        code_of(&body),
        (100, 33),
        "one invalid id fails the whole call"
    );
    fixture.set_time(before + 86_400);
    let (_, body) = fixture.get("", &token, &[("ids", "1,2")]).await;
    assert_eq!(code_of(&body), (100, 0));
    let (_, body) = fixture.get("1", &token, &[("date_format", "U")]).await;
    assert_eq!(code_of(&body), (100, 0));
}

/// Following `next` or `previous` returns the same fields of the neighbouring result page.
#[tokio::test]
async fn the_addresses_of_result_pages_lead_to_the_simulator_and_keep_the_parameters() {
    let fixture = Fixture::new(5).await;
    fixture.simulator.facebook().graph_faults.require_proof = false;
    let token = fixture.user_token().await;
    let parameters = [("fields", "id,category"), ("limit", "2")];
    let (_, mut page) = fixture.get("me/accounts", &token, &parameters).await;
    let mut ids = Vec::new();
    let mut previous = Value::Null;
    loop {
        for item in page["data"].as_array().unwrap() {
            assert!(item["category"].is_string() && item["name"].is_null());
            ids.push(item["id"].as_str().unwrap().to_owned());
        }
        if !page["paging"]["previous"].is_null() {
            previous = page["paging"]["previous"].clone();
        }
        let Some(next) = page["paging"]["next"].as_str() else {
            break;
        };
        assert!(!next.contains("appsecret_proof"), "{next}");
        page = fixture.follow(next).await;
    }
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
    let page = fixture.follow(previous.as_str().unwrap()).await;
    let found: Vec<&Value> = page["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["id"])
        .collect();
    assert_eq!(found, ["3", "4"]);
}

#[tokio::test]
async fn a_batch_has_at_most_50_calls_and_returns_bodies_as_strings() {
    let fixture = Fixture::new(60).await;
    let token = fixture.user_token().await;
    let part =
        |id: &str| json!({"method": "GET", "relative_url": format!("v25.0/{id}?fields=name")});
    let batch = json!([part("1"), part("999")]).to_string();
    let (_, body) = fixture
        .call(Method::POST, "", &token, &[("batch", &batch)])
        .await;
    assert_eq!(
        (&body[0]["code"], &body[1]["code"]),
        (&json!(200), &json!(400))
    );
    let first = body[0]["body"].as_str().unwrap();
    assert!(first.contains(r#""name":"P1""#), "{first}");
    let parts: Vec<Value> = (0..51).map(|_| part("1")).collect();
    let batch = Value::from(parts).to_string();
    let (_, body) = fixture
        .call(Method::POST, "", &token, &[("batch", &batch)])
        .await;
    assert_eq!(body["error"]["type"], "GraphBatchException");
}

#[tokio::test]
async fn categories_are_localized_unless_the_call_asks_for_english() {
    let fixture = Fixture::new(60).await;
    let token = fixture.user_token().await;
    let (_, german) = fixture.get("1", &token, &[("fields", "category")]).await;
    let english = [("fields", "category"), ("locale", "en_US")];
    let (_, english) = fixture.get("1", &token, &english).await;
    assert_ne!(german["category"], english["category"]);
}
