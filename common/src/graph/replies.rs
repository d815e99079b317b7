//! Every kind of reply of Graph, recorded in `replies.jsonl`, has its class.

use super::*;

/// One reply of `replies.jsonl`.
#[derive(serde::Deserialize)]
struct Recorded {
    kind: String,
    #[serde(default)]
    status: Option<u16>,
    body: Json,
    /// The class of the error, or what was read.
    expect: Json,
}

fn replies() -> Vec<Recorded> {
    let lines = include_str!("replies.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_kind_of_error_has_its_class() {
    let mut seen = 0;
    for reply in replies().into_iter().filter(|reply| reply.kind == "error") {
        let body = (!reply.body.is_string()).then_some(&reply.body);
        let error = GraphError::from_reply(reply.status.unwrap(), body);
        let found = match &error {
            GraphError::UnknownField(name) | GraphError::Permission(name) => {
                serde_json::json!([error.metric_label(), name])
            }
            GraphError::Token { subcode } => serde_json::json!([error.metric_label(), subcode]),
            GraphError::RateLimited { bucket, .. } => {
                serde_json::json!([error.metric_label(), format!("{bucket:?}")])
            }
            error => serde_json::json!([error.metric_label()]),
        };
        assert_eq!(found, reply.expect, "{}", reply.body);
        seen += 1;
    }
    assert!(seen >= 40, "{seen}");
}

#[test]
fn every_kind_of_answer_is_read() {
    for reply in replies() {
        let stamp = Ok(FacebookTime(0));
        let found = match reply.kind.as_str() {
            "accounts" => {
                let (accounts, after) = listed(reply.body).unwrap();
                let rows = accounts
                    .iter()
                    .map(|one| (one.id.to_string(), one.token.is_some()));
                serde_json::json!({"rows": rows.collect::<Vec<_>>(), "after": after})
            }
            "debug_token" => {
                let info = token_info(&reply.body).unwrap();
                serde_json::json!({"app": info.app_id, "kind": info.kind, "valid": info.is_valid,
                    "user": info.user, "scopes": info.scopes.len(), "expires": info.expires})
            }
            "granted" => {
                let granted = granted(&Reply {
                    body: reply.body,
                    stamp,
                })
                .unwrap();
                serde_json::json!(granted.expires_in.map(|lives| lives.as_secs()))
            }
            "success" => serde_json::json!(
                success(&Reply {
                    body: reply.body,
                    stamp
                })
                .is_ok()
            ),
            "subscribed_apps" => {
                serde_json::json!(fields_of_app(&reply.body, "100200300400500"))
            }
            "app_subscriptions" => {
                let found = page_subscription_of(&reply.body);
                serde_json::json!(found.map(|found| (found.callback, found.active, found.fields)))
            }
            "refused_fields" => {
                serde_json::json!(super::super::error::refused_fields(&reply.body))
            }
            "page" => {
                let id = PageId::parse("20531316728").unwrap();
                serde_json::json!(page_object(reply.body, &id).unwrap().len())
            }
            "other" => serde_json::json!(super::super::client::is_answer(200, &reply.body)),
            "error" => continue,
            other => panic!("{other}"),
        };
        assert_eq!(found, reply.expect, "{}", reply.kind);
    }
}
