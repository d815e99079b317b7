//! Dispatches a call to the edge that its path names. The calls in a batch are dispatched in the
//! same way.

use axum::http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::authentication::authenticate;
use super::call::{Call, Caller, path_parts, read_parameters};
use super::refusal::{Answer, ErrorReply};
use super::version::take_version;
use super::{accounts, oauth, objects, subscriptions};
use crate::scripted_reply::ScriptedReply;
use crate::simulator::Simulator;

/// The maximum number of calls in a batch.
const MAX_BATCH: usize = 50;

/// Counts a call. Returns the scripted reply to it, if there is one.
pub(super) fn count(simulator: &Simulator, call: &Call) -> Option<ScriptedReply> {
    let edge = call.edge();
    let mut facebook = simulator.facebook();
    *facebook.calls.entry(edge.clone()).or_default() += 1;
    facebook.take_scripted_reply(&edge)
}

/// Returns the answer of the edge that a call names.
pub(super) async fn dispatch(simulator: &Simulator, call: &Call) -> Answer {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match (call.method.as_str(), path.as_slice()) {
        ("GET" | "POST", ["oauth", "access_token"]) => oauth::access_token(simulator, call),
        ("GET", ["debug_token"]) => oauth::debug_token(simulator, call),
        ("GET", ["me", "permissions"]) => oauth::permissions(simulator, call),
        ("DELETE", ["me", "permissions"]) => oauth::revoke(simulator, call, None),
        ("DELETE", ["me", "permissions", one]) => oauth::revoke(simulator, call, Some(one)),
        ("GET", ["me", "accounts"]) => accounts::accounts(simulator, call),
        ("GET", ["me"]) => objects::me(simulator, call),
        ("GET", []) => objects::several(simulator, call),
        ("POST", []) => batch(simulator, call).await,
        (_, [id, "subscriptions"]) => subscriptions::app(simulator, call, id).await,
        (_, [id, "subscribed_apps"]) => subscriptions::page(simulator, call, id),
        ("GET", [id]) => objects::page(simulator, call, id),
        (_, [_, rest @ ..]) => Err(ErrorReply::unknown_path(&rest.join("/"))),
        _ => Err(ErrorReply::unsupported()),
    }
}

/// Returns the answers to the calls in a batch. The body of each answer is a string.
async fn batch(simulator: &Simulator, call: &Call) -> Answer {
    let parts: Vec<Value> = call
        .parameter("batch")
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| {
            ErrorReply::oauth(100, None, "(#100) batch parameter must be a JSON array")
        })?;
    if parts.len() > MAX_BATCH {
        let message =
            format!("Too many requests in batch message. Maximum batch size is {MAX_BATCH}");
        return Err(ErrorReply::new(
            400,
            "GraphBatchException",
            0,
            None,
            &message,
        ));
    }
    let mut answers = Vec::new();
    for part in &parts {
        let answer = match part_call(simulator, part, &call.caller) {
            Ok(call) => {
                // Each call in a batch is counted separately. Scripted replies are not supported
                // here: one is used up, and the real answer is returned.
                count(simulator, &call);
                Box::pin(dispatch(simulator, &call)).await
            }
            Err(refusal) => Err(refusal),
        };
        let (code, body) = match answer {
            Ok(body) => (200, body),
            Err(refusal) => (refusal.status, refusal.body()),
        };
        let headers = json!([{"name": "Content-Type", "value": "application/json"}]);
        answers.push(json!({"code": code, "headers": headers, "body": body.to_string()}));
    }
    Ok(Value::Array(answers))
}

/// Returns the call that a part of a batch describes. A part without an access token is called by
/// the caller of the batch.
fn part_call(simulator: &Simulator, part: &Value, caller: &Caller) -> Result<Call, ErrorReply> {
    let address = part["relative_url"].as_str().unwrap_or_default();
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    let mut path = path_parts(path);
    // An unknown version remains in the path, and no edge serves such a path.
    let _ = take_version(&mut path);
    let form = part["body"].as_str().unwrap_or_default();
    let mut parameters = read_parameters(query.as_bytes());
    parameters.extend(read_parameters(form.as_bytes()));
    let caller = if parameters.contains_key("access_token") {
        authenticate(simulator, &HeaderMap::new(), &parameters)?
    } else {
        caller.clone()
    };
    let method = part["method"].as_str().and_then(|text| text.parse().ok());
    Ok(Call {
        method: method.unwrap_or(Method::GET),
        path,
        parameters,
        caller,
    })
}
