//! The actions of the HTTP API, and their audit.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::api::deployment_of_client;
use crate::support::api::ApiClient;
use crate::support::eventually;
use crate::support::facebook::{DeploymentOptions, page_id_text};

/// Each action is executed once, however often it is repeated, and is in the audit.
#[tokio::test(flavor = "multi_thread")]
async fn an_action_on_another_version_is_refused_and_every_action_is_recorded() {
    let mut connected = deployment_of_client(DeploymentOptions::default()).await;
    let api = ApiClient::start(&mut connected, &["--scope", "operate"]).await;
    let id = page_id_text(0);
    let path = format!("/v1/pages/{id}");
    let version = api.ok(&path).await["version"].as_u64().unwrap();
    let calls = connected.calls("GET {id}");
    let read = |version: u64| json!({ "version": version });
    let (status, body) = api.post(&format!("{path}/read"), &read(version)).await;
    assert_eq!(status, 202, "{body}");
    assert!(body["due_at"].as_str().unwrap().ends_with('Z'));
    let (status, body) = api.post(&format!("{path}/read"), &read(version)).await;
    assert_eq!((status, &body["code"]), (409, &json!("version_conflict")));
    assert!(body["version"].as_u64().unwrap() > version, "{body}");
    eventually("the read", || async {
        (connected.calls("GET {id}") > calls).then_some(())
    })
    .await;
    for body in [
        json!({}),
        json!({"version": "1"}),
        json!({"version": 1, "x": 2}),
    ] {
        assert_eq!(
            api.post(&format!("{path}/read"), &body).await.0,
            400,
            "{body}"
        );
    }

    let user = connected.connection().await.user;
    let path = format!("/v1/connections/{user}");
    let detail = api.ok(&path).await;
    let version = detail["version"].as_u64().unwrap();
    let polls = connected.calls("GET me/accounts");
    assert_eq!(
        api.post(&format!("{path}/read"), &read(version)).await.0,
        202
    );
    eventually("the connection poll", || async {
        (connected.calls("GET me/accounts") > polls).then_some(())
    })
    .await;
    assert_eq!(
        api.post(&format!("{path}/read"), &read(version)).await.0,
        409
    );

    connected.text(&["erase", "connection", user.as_str()]);
    let audit = api.ok("/v1/audit?limit=500").await.to_string();
    assert!(!audit.contains(user.as_str()), "{audit}");
    assert!(audit.contains("connection:erased"), "{audit}");

    let unreadable = r#"{"object":"page","entry":{}}"#;
    assert_eq!(connected.deployment.deliver(unreadable).await, 200);
    let letter = |api: ApiClient| async move {
        let list = api.ok("/v1/dead-letters").await;
        list["dead_letters"].as_array().unwrap().first().cloned()
    };
    let found = eventually("a dead letter", || letter(api.clone())).await;
    let path = format!("/v1/dead-letters/{}", found["id"].as_str().unwrap());
    let shown = api.ok(&path).await;
    let body = shown["body"].as_str().unwrap();
    assert_eq!(body, r#"{"entry":{},"object":"page"}"#);
    let stale = read(found["version"].as_u64().unwrap() + 7);
    assert_eq!(api.post(&format!("{path}/discard"), &stale).await.0, 409);
    let present = |detail: &Json| read(detail["version"].as_u64().unwrap());
    let (status, body) = api.post(&format!("{path}/replay"), &present(&shown)).await;
    assert_eq!((status, &body), (200, &json!({"is_deleted": true})));
    // The job fails again, so its dead letter comes back.
    let shown = eventually("the dead letter of the replayed job", || async {
        let (status, shown) = api.get(&path).await;
        (status == 200).then_some(shown)
    })
    .await;
    assert_eq!(
        api.post(&format!("{path}/discard"), &present(&shown))
            .await
            .0,
        200
    );
    assert_eq!(
        api.post(&format!("{path}/discard"), &present(&shown))
            .await
            .0,
        404
    );

    let audit = api.ok("/v1/audit?limit=500").await;
    let actions: Vec<(String, String)> = audit["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| {
            assert!(!action["target"].as_str().unwrap().contains("invalid"));
            let text = |name: &str| action[name].as_str().unwrap().to_owned();
            (text("action"), text("outcome"))
        })
        .collect();
    let actions: Vec<(&str, &str)> = actions
        .iter()
        .map(|(a, o)| (a.as_str(), o.as_str()))
        .collect();
    assert_eq!(
        actions,
        [
            ("dead_letter.discard", "not_found"),
            ("dead_letter.discard", "done"),
            ("dead_letter.replay", "done"),
            ("dead_letter.discard", "version_conflict"),
            ("connection.read", "version_conflict"),
            ("connection.read", "done"),
            ("page.read", "version_conflict"),
            ("page.read", "done"),
            ("api_key.create", "done"),
        ]
    );
    let first = api.ok("/v1/audit?limit=1").await;
    let next = first["next"].as_str().unwrap();
    let second = api.ok(&format!("/v1/audit?limit=1&after={next}")).await;
    assert_eq!(second["actions"][0], audit["actions"][1]);
    assert_eq!(
        connected.json(&["audit", "--limit", "2"])[1]["outcome"],
        "done"
    );
    connected.finish().await;
}

/// Clients give up at different moments of their requests. Each action that was executed is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn an_action_is_recorded_although_its_client_has_gone() {
    const LETTERS: usize = 30;
    let mut connected = deployment_of_client(DeploymentOptions::default()).await;
    let api = ApiClient::start(&mut connected, &["--scope", "operate"]).await;
    for n in 0..LETTERS {
        let unreadable = format!(r#"{{"object":"page","entry":{{"n":{n}}}}}"#);
        assert_eq!(connected.deployment.deliver(unreadable).await, 200);
    }
    let letters = eventually("every dead letter", || async {
        let list = api.ok("/v1/dead-letters").await;
        let letters = list["dead_letters"].as_array().unwrap().clone();
        (letters.len() == LETTERS).then_some(letters)
    })
    .await;
    for letter in &letters {
        let path = format!("/v1/dead-letters/{}", letter["id"].as_str().unwrap());
        let discard = format!("{path}/discard");
        let body = json!({"version": letter["version"]});
        // Each attempt waits longer than the one before, until the action was executed.
        let mut timeout = Duration::from_micros(200);
        while api.get(&path).await.0 == 200 {
            let request = api.post(&discard, &body);
            let _ = tokio::time::timeout(timeout, request).await;
            timeout = timeout.mul_f64(1.3);
        }
    }
    let ids: BTreeSet<&str> = letters
        .iter()
        .map(|letter| letter["id"].as_str().unwrap())
        .collect();
    eventually("a record of each action", || async {
        let audit = api.ok("/v1/audit?limit=500").await;
        let actions = audit["actions"].as_array().unwrap().iter();
        let done = actions.filter(|action| action["outcome"] == "done");
        let targets =
            done.filter_map(|action| action["target"].as_str()?.strip_prefix("dead_letter:"));
        (targets.collect::<BTreeSet<&str>>() == ids).then_some(())
    })
    .await;
    connected.finish().await;
}
