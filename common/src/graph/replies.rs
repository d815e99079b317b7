//! Tests that parse the replies of Graph in `replies.jsonl`: every kind of error and of successful
//! reply.

use super::*;

/// One line of `replies.jsonl`.
#[derive(serde::Deserialize)]
struct Recorded {
    kind: String,
    #[serde(default)]
    status: Option<u16>,
    body: Json,
    /// The label of the error, or the parsed content.
    expect: Json,
}

fn replies() -> Vec<Recorded> {
    let lines = include_str!("replies.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_kind_of_error_is_classified() {
    let mut count = 0;
    for reply in replies().into_iter().filter(|reply| reply.kind == "error") {
        let body = (!reply.body.is_string()).then_some(&reply.body);
        let error = GraphError::from_reply(reply.status.unwrap(), body);
        let error = error.kind;
        let classified = match &error {
            ErrorKind::RefusedField(name) => serde_json::json!([error.metric_label(), name]),
            ErrorKind::Permission(name) => {
                serde_json::json!([error.metric_label(), name])
            }
            ErrorKind::Token { subcode } => serde_json::json!([error.metric_label(), subcode]),
            ErrorKind::RateLimited { scope, .. } => {
                serde_json::json!([error.metric_label(), format!("{scope:?}")])
            }
            error => serde_json::json!([error.metric_label()]),
        };
        assert_eq!(classified, reply.expect, "{}", reply.body);
        count += 1;
    }
    assert!(count >= 40, "{count}");
}

#[test]
fn every_kind_of_answer_is_parsed() {
    for reply in replies() {
        let stamp = Ok(FacebookTime(0));
        let parsed = match reply.kind.as_str() {
            "accounts" => {
                let (pages, cursor) = parse_result_page(reply.body).unwrap();
                let rows = pages
                    .iter()
                    .map(|page| (page.id.to_string(), page.token.is_some()));
                serde_json::json!({"rows": rows.collect::<Vec<_>>(), "after": cursor})
            }
            "debug_token" => {
                let info = parse_token_info(&reply.body).unwrap();
                serde_json::json!({"app": info.app_id, "kind": info.kind, "valid": info.is_valid,
                    "user": info.user, "scopes": info.scopes.len(), "expires": info.expires_at})
            }
            "issued_token" => {
                let token = parse_issued_token(&Reply {
                    body: reply.body,
                    stamp,
                })
                .unwrap();
                serde_json::json!(token.expires_in.map(|duration| duration.as_secs()))
            }
            "success" => serde_json::json!(
                check_success(&Reply {
                    body: reply.body,
                    stamp
                })
                .is_ok()
            ),
            "subscribed_apps" => {
                let parsed = parse_page_subscription(&reply.body, "100200300400500");
                serde_json::json!(parsed.unwrap())
            }
            "app_subscriptions" => {
                let parsed = parse_app_subscription(&reply.body).unwrap();
                serde_json::json!(parsed.map(|app| (app.callback, app.active, app.fields)))
            }
            "refused_fields" => {
                serde_json::json!(super::super::error::refused_fields(&reply.body))
            }
            "page" => {
                let id = PageId::parse("20531316728").unwrap();
                serde_json::json!(parse_page_object(reply.body, &id).unwrap().len())
            }
            "other" => serde_json::json!(super::super::client::is_success(200, &reply.body)),
            "error" => continue,
            kind => panic!("unknown kind {kind}"),
        };
        assert_eq!(parsed, reply.expect, "{}", reply.kind);
    }
}
