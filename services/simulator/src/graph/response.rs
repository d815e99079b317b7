//! Builds the HTTP response to a call, with its status, headers and body, and applies a scripted
//! reply to it.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value};

use super::refusal::Answer;
use crate::errors::trace_id;
use crate::scripted_reply::ScriptedReply;
use crate::simulator::Simulator;

/// Header values by name. Each line of a value becomes a separate header; `None` omits the header.
type Headers = BTreeMap<String, Option<String>>;

/// Returns the response to a call. `version` is the version of Graph that serves it.
pub(super) fn respond(
    simulator: &Simulator,
    version: &str,
    reply: Option<ScriptedReply>,
    answer: Answer,
) -> Response {
    let (mut status, mut body) = match answer {
        Ok(body) => (200, body),
        Err(refusal) => (refusal.status, refusal.body()),
    };
    let mut headers = usual_headers(simulator, version);
    if status != 200 {
        let message = body["error"]["message"].as_str().unwrap_or_default();
        let message: String = message
            .chars()
            .filter(|c| c.is_ascii_graphic() || *c == ' ')
            .filter(|c| *c != '"')
            .collect();
        let value = format!("OAuth \"Facebook Platform\" \"invalid_request\" \"{message}\"");
        headers.insert("www-authenticate".to_owned(), Some(value));
    }
    let mut bytes = Vec::new();
    if let Some(reply) = reply {
        if reply.body.is_some() || reply.status != 200 {
            status = reply.status;
        }
        bytes = vec![b' '; reply.padding];
        headers.extend(reply.headers);
        patch_objects(&mut body, &reply.patch);
        body = reply.body.unwrap_or(body);
    }
    match body {
        Value::String(text) => bytes.extend(text.into_bytes()),
        body => bytes.extend(body.to_string().into_bytes()),
    }
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    append_headers(&mut response, &headers);
    response
}

/// Returns the headers of every answer, including those that the graph faults add.
fn usual_headers(simulator: &Simulator, version: &str) -> Headers {
    let facebook = simulator.facebook();
    let date = UNIX_EPOCH + Duration::from_secs(facebook.now());
    let content_type = "application/json; charset=UTF-8".to_owned();
    let mut headers = Headers::from([
        ("date".to_owned(), Some(httpdate::fmt_http_date(date))),
        ("content-type".to_owned(), Some(content_type)),
        ("facebook-api-version".to_owned(), Some(version.to_owned())),
        ("cache-control".to_owned(), Some("no-store".to_owned())),
        ("x-fb-request-id".to_owned(), Some(trace_id())),
        ("x-fb-trace-id".to_owned(), Some(trace_id())),
    ]);
    let extra = facebook.graph_faults.headers.iter();
    headers.extend(extra.map(|(name, value)| (name.clone(), Some(value.clone()))));
    headers
}

/// Appends headers to a response. Names and values that HTTP does not allow are skipped.
fn append_headers(response: &mut Response, headers: &Headers) {
    for (name, value) in headers {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        // Tests use several lines to send a header more than once.
        let lines = value.iter().flat_map(|value| value.split('\n'));
        for value in lines.filter_map(|line| HeaderValue::from_str(line).ok()) {
            response.headers_mut().append(name.clone(), value);
        }
    }
}

/// Sets fields in an object: in the body, in its member `data`, or in each object of its list `data`.
/// A null value removes the field.
fn patch_objects(body: &mut Value, patch: &Map<String, Value>) {
    if patch.is_empty() {
        return;
    }
    let objects: Vec<&mut Value> = match body.get("data") {
        Some(Value::Array(_)) => body["data"].as_array_mut().into_iter().flatten().collect(),
        Some(Value::Object(_)) => body.get_mut("data").into_iter().collect(),
        _ => vec![body],
    };
    for object in objects.into_iter().filter_map(Value::as_object_mut) {
        for (name, value) in patch {
            if value.is_null() {
                object.remove(name);
            } else {
                object.insert(name.clone(), value.clone());
            }
        }
    }
}
