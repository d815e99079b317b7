//! Checks the description of the HTTP API: the stored `docs/openapi.json` is what the code generates, every
//! operation answers as it says, and `docs/api.md` explains every code of a problem.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use crate::json_reference::busy_deployment;
use crate::support::api::ApiClient;
use crate::support::eventually;
use crate::support::facebook::page_id_text;
use crate::support::reference::Reference;
use crate::tidy::read;

#[test]
fn the_stored_description_is_what_the_code_generates() {
    let stored = read("docs/openapi.json");
    let fix = "update it: pagesync openapi > docs/openapi.json";
    assert!(
        stored.trim_end() == api::description(),
        "docs/openapi.json is outdated; {fix}"
    );
}

#[test]
fn the_reference_explains_every_code_of_a_problem() {
    let text = read("docs/api.md");
    let described: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    let codes = common::problem::Code::ALL.map(common::problem::Code::name);
    assert_eq!(described, BTreeSet::from(codes));
}

/// Every operation: its method, its path in the description, the request, and the object of `docs/json.md`
/// in the answer, with the member that contains it.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_as_its_description_says() {
    let description: Json = serde_json::from_str(&read("docs/openapi.json")).unwrap();
    let reference = Reference::load();
    let mut connected = busy_deployment().await;
    let api = ApiClient::start(&mut connected, &["--scope", "operate"]).await;
    let page = page_id_text(0);
    let user = connected.connection().await.user.to_string();
    let letters = api.ok("/v1/dead-letters").await;
    let letter = letters["dead_letters"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let operations = [
        ("get", "/v1/pages", "", "pages", "list of page"),
        ("get", "/v1/pages.csv", "", "", ""),
        ("get", "/v1/pages/counts", "", "", "map of integer"),
        ("get", "/v1/pages/{id}", &*page, "", "page_detail"),
        (
            "get",
            "/v1/pages/{id}/history",
            &page,
            "changes",
            "list of change",
        ),
        ("get", "/v1/pages/{id}/explain", &page, "text", "string"),
        ("post", "/v1/pages/{id}/read", &page, "due_at", "time"),
        ("get", "/v1/changes", "", "changes", "list of feed_change"),
        (
            "get",
            "/v1/connections",
            "",
            "connections",
            "list of connection",
        ),
        (
            "get",
            "/v1/connections/{id}",
            &user,
            "",
            "connection_detail",
        ),
        ("post", "/v1/connections/{id}/read", &user, "due_at", "time"),
        ("get", "/v1/schedule", "", "", "schedule"),
        ("get", "/v1/missed", "", "", "missed"),
        (
            "get",
            "/v1/dead-letters",
            "",
            "dead_letters",
            "list of dead_letter",
        ),
        (
            "get",
            "/v1/dead-letters/{id}",
            &letter,
            "",
            "dead_letter_detail",
        ),
        (
            "post",
            "/v1/dead-letters/{id}/replay",
            &letter,
            "is_deleted",
            "boolean",
        ),
        (
            "post",
            "/v1/dead-letters/{id}/discard",
            &letter,
            "is_deleted",
            "boolean",
        ),
        ("get", "/v1/checks", "", "checks", "list of check"),
        ("get", "/v1/audit", "", "actions", "list of action"),
    ];
    let mut described = BTreeSet::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((method.as_str(), path.as_str()));
        }
    }
    let ids: BTreeSet<String> = described
        .iter()
        .map(|(method, path)| description["paths"][path][method]["operationId"].to_string())
        .collect();
    assert_eq!(ids.len(), described.len(), "the ids of operations differ");
    let sent = operations.iter().map(|(method, path, ..)| (*method, *path));
    assert_eq!(described, sent.collect());
    for (method, template, id, member, kind) in operations {
        let path = template.replace("{id}", id);
        let (status, body) = if method == "get" {
            api.get(&path).await
        } else {
            let object = path.rsplit_once('/').unwrap().0;
            // The job of a replayed dead letter fails again, so its dead letter comes back.
            let object = eventually("the object of the action", || async {
                let (status, object) = api.get(object).await;
                (status == 200).then_some(object)
            })
            .await;
            let target = json!({"version": object["version"]});
            api.post(&path, &target).await
        };
        let responses = &description["paths"][template][method]["responses"];
        assert!(
            responses[status.to_string()].is_object(),
            "{method} {path}: {status} {body}"
        );
        let answered = if member.is_empty() {
            &body
        } else {
            &body[member]
        };
        if !kind.is_empty() {
            reference.check(kind, answered, &path);
        }
        if let Some(list) = answered.as_array() {
            assert!(!list.is_empty(), "{path} answers nothing to check");
        }
    }
    for path in ["/v1/nothing", "/v1/pages/1/nothing"] {
        let (status, body) = api.get(path).await;
        assert_eq!(
            (status, &body["code"]),
            (404, &json!("not_found")),
            "{path}"
        );
    }
    let (status, body) = api.post("/v1/pages", &json!({})).await;
    assert_eq!((status, &body["code"]), (405, &json!("method_not_allowed")));
    connected.finish().await;
}
