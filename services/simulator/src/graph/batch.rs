//! Batches: several calls in one request.
//!
//! Source: "Batch Requests": at most 50 calls; the body of each answer is a string; a later call can use
//! values from the answer of a named earlier one, and the answer of a named call is then left out
//! unless `omit_response_on_success` is false.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::authentication::{authenticate, credentials};
use super::call::{Call, path_parts};
use super::dispatch::{count, dispatch, method_of};
use super::parameters::read_form;
use super::refusal::{Answer, ErrorReply};
use super::version::take_version;
use crate::simulator::Simulator;

/// The maximum number of calls in a batch.
const MAX_BATCH: usize = 50;

/// Returns the answers to the calls in a batch.
pub(super) async fn batch(simulator: &Simulator, call: &Call) -> Answer {
    let parts: Vec<Value> = call
        .parameter("batch")
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| {
            ErrorReply::oauth(100, None, "(#100) batch parameter must be a JSON array")
        })?;
    if parts.len() > MAX_BATCH {
        let message =
            format!("Too many requests in batch message. Maximum batch size is {MAX_BATCH}");
        let error_type = "GraphBatchException";
        return Err(ErrorReply::new(400, error_type, 0, None, &message));
    }
    let with_headers = call.parameter("include_headers") != Some("false");
    let (mut answers, mut named) = (Vec::new(), BTreeMap::new());
    for part in &parts {
        let answer = match part_call(simulator, part, call, &named) {
            Ok(call) => {
                // Each call in a batch is counted separately. Scripted replies are not supported
                // here: one is used up, and the real answer is returned.
                count(simulator, &call);
                dispatch(simulator, &call).await
            }
            Err(refusal) => Err(refusal),
        };
        let (code, body) = match answer {
            Ok(body) => (200, body),
            Err(refusal) => (refusal.status, refusal.body()),
        };
        let name = part["name"].as_str();
        if let Some(name) = name {
            named.insert(name.to_owned(), body.clone());
        }
        if name.is_some() && code == 200 && part["omit_response_on_success"] != json!(false) {
            answers.push(Value::Null);
            continue;
        }
        let mut answer = json!({"code": code, "body": body.to_string()});
        if with_headers {
            answer["headers"] = json!([{"name": "Content-Type", "value": "application/json"}]);
        }
        answers.push(answer);
    }
    Ok(Value::Array(answers))
}

/// Returns the call that a part of a batch describes. A part without an access token is called by the
/// caller of the batch. `named` are the answers to the named calls before it.
fn part_call(
    simulator: &Simulator,
    part: &Value,
    batch: &Call,
    named: &BTreeMap<String, Value>,
) -> Result<Call, ErrorReply> {
    let address = insert_results(part["relative_url"].as_str().unwrap_or_default(), named)?;
    let (path, query) = address.split_once('?').unwrap_or((&address, ""));
    let mut path = path_parts(path);
    // An unknown version remains in the path, and no edge serves such a path.
    let _ = take_version(&mut path);
    let form = insert_results(part["body"].as_str().unwrap_or_default(), named)?;
    let mut parameters = read_form(query.as_bytes());
    parameters.extend(read_form(form.as_bytes()));
    let (caller, credentials) = if parameters.contains_key("access_token") {
        let headers = HeaderMap::new();
        let caller = authenticate(simulator, &headers, &parameters)?;
        (caller, credentials(&headers, &parameters))
    } else {
        (batch.caller.clone(), batch.credentials.clone())
    };
    let method = part["method"].as_str().unwrap_or("GET").to_uppercase();
    let method = method_of(method.parse().unwrap_or(Method::GET), &parameters);
    Ok(Call {
        method,
        path,
        parameters,
        caller,
        credentials,
        base: batch.base.clone(),
        version: batch.version.clone(),
    }
    .with_own_id_as_me())
}

/// Replaces each `{result=<name>:<path>}` by the values at the path in the named answer, separated by
/// commas. Fails if there is no such answer.
fn insert_results(text: &str, named: &BTreeMap<String, Value>) -> Result<String, ErrorReply> {
    let Some((before, rest)) = text.split_once("{result=") else {
        return Ok(text.to_owned());
    };
    let (expression, after) = rest.split_once('}').unwrap_or((rest, ""));
    let (name, path) = expression.split_once(':').unwrap_or((expression, "$"));
    let answer = named.get(name).ok_or_else(|| {
        let message = format!("(#100) The result {name} does not exist");
        ErrorReply::oauth(100, None, &message)
    })?;
    let mut found = vec![answer];
    for step in path.trim_start_matches('$').split(['.', '[']) {
        let step = step.trim_end_matches(']');
        found = match step {
            "" => found,
            "*" => found.into_iter().flat_map(children).collect(),
            name => found
                .into_iter()
                .filter_map(|value| match name.parse::<usize>() {
                    Ok(at) => value.get(at),
                    Err(_) => value.get(name),
                })
                .collect(),
        };
    }
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), ToOwned::to_owned)
    };
    let values: Vec<String> = found.into_iter().map(text).collect();
    let after = insert_results(after, named)?;
    Ok(format!("{before}{}{after}", values.join(",")))
}

/// Returns the items of a list, or the values of the members of an object.
fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(members) => members.values().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_inserted_where_it_is_named() {
        let named = BTreeMap::from([(
            "list".to_owned(),
            json!({"data": [{"id": "1"}, {"id": "2"}]}),
        )]);
        let insert = |text| insert_results(text, &named).unwrap();
        assert_eq!(insert("?ids={result=list:$.data.*.id}&x=1"), "?ids=1,2&x=1");
        assert_eq!(insert("{result=list:$.data[1].id}"), "2");
        assert_eq!(insert("me"), "me");
        assert!(insert_results("{result=other:$.id}", &named).is_err());
    }
}
