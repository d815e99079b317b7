//! The Graph API: which call a request is, who makes it, and what Graph says around every answer.

mod edges;
mod fields;
mod misfortune;
mod oauth;
mod subscriptions;

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use serde_json::{Value, json};

use crate::Simulator;
use crate::facebook::{Canned, Kind, Token};
pub(crate) use fields::is_field;

/// The versions that are served; older ones that once existed are served by the first.
const LIVE: [&str; 6] = ["v21.0", "v22.0", "v23.0", "v24.0", "v25.0", "v26.0"];
/// Who asks for no version gets this one.
const DEFAULT: &str = "v25.0";

/// An answer before its headers.
pub(crate) type Answer = Result<Value, Refusal>;

/// An error of Graph.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) error: Value,
}

impl Refusal {
    pub(crate) fn new(
        status: u16,
        kind: &str,
        code: u64,
        subcode: Option<u64>,
        message: &str,
    ) -> Self {
        let mut error =
            json!({"message": message, "type": kind, "code": code, "fbtrace_id": "AsimTrace"});
        if let Some(subcode) = subcode {
            error["error_subcode"] = json!(subcode);
        }
        Self { status, error }
    }

    pub(crate) fn oauth(code: u64, subcode: Option<u64>, message: &str) -> Self {
        Self::new(400, "OAuthException", code, subcode, message)
    }

    /// The object is not there, or this token may not see it: Graph does not say which.
    pub(crate) fn missing(id: &str) -> Self {
        let message = format!(
            "Unsupported get request. Object with ID '{id}' does not exist, cannot be loaded due to missing permissions, or does not support this operation. Please read the Graph API documentation at https://developers.facebook.com/docs/graph-api"
        );
        Self::new(400, "GraphMethodException", 100, Some(33), &message)
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    Nobody,
    App,
    Token(Token),
}

/// A call: its path without the version, its parameters from query and form.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: Vec<String>,
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) caller: Caller,
}

impl Call {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// A person's or a Page's token.
    pub(crate) fn token(&self) -> Result<&Token, Refusal> {
        match &self.caller {
            Caller::Token(token) => Ok(token),
            Caller::App | Caller::Nobody => Err(Refusal::oauth(
                2500,
                None,
                "An active access token must be used to query information about the current user.",
            )),
        }
    }

    /// The name of the edge, as calls are counted.
    fn edge(&self) -> String {
        let is_id = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = self
            .path
            .iter()
            .map(|part| if is_id(part) { "{id}" } else { part.as_str() })
            .collect();
        let name = match parts.as_slice() {
            [] if self.parameters.contains_key("ids") => "?ids".to_owned(),
            [] => "batch".to_owned(),
            parts => parts.join("/"),
        };
        format!("{} {name}", self.method)
    }
}

/// Every request that is not for the dialog or for us.
pub(crate) async fn handle(
    State(simulator): State<Simulator>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut path: Vec<String> = uri
        .path()
        .split('/')
        .filter(|part| !part.is_empty())
        .map(ToOwned::to_owned)
        .collect();
    let mut parameters = pairs(uri.query().unwrap_or_default().as_bytes());
    parameters.extend(pairs(&body));
    let version = match served(&mut path) {
        Ok(version) => version,
        Err(refusal) => return respond(&simulator, DEFAULT, None, Err(refusal)),
    };
    let caller = authenticate(&simulator, &headers, &parameters);
    let unproven = caller.as_ref().err().cloned();
    let call = Call {
        method,
        path,
        parameters,
        caller: caller.unwrap_or(Caller::Nobody),
    };
    let canned = count(&simulator, &call);
    let named = canned.as_ref().and_then(|canned| canned.fault.clone());
    let fault = misfortune::befalls(&simulator, named);
    let answer = match (&fault, unproven) {
        (Some(fault), _) if let Some(refusal) = misfortune::instead(fault) => Err(refusal),
        (_, Some(refusal)) => Err(refusal),
        (_, None) => Box::pin(dispatch(&simulator, &call)).await,
    };
    let response = respond(&simulator, &version, canned, answer);
    misfortune::spoil(&simulator, fault, response).await
}

fn pairs(text: &[u8]) -> BTreeMap<String, String> {
    serde_urlencoded::from_bytes(text).unwrap_or_default()
}

fn count(simulator: &Simulator, call: &Call) -> Option<Canned> {
    let edge = call.edge();
    let mut facebook = simulator.facebook();
    *facebook.calls.entry(edge.clone()).or_default() += 1;
    facebook.take_canned(&edge)
}

/// Takes the version off a path; answers with the one that serves.
fn served(path: &mut Vec<String>) -> Result<String, Refusal> {
    let Some(first) = path.first().cloned() else {
        return Ok(DEFAULT.to_owned());
    };
    let number = |part: &str| part.parse::<u32>().ok();
    let parsed = first
        .strip_prefix('v')
        .and_then(|version| version.split_once('.'))
        .and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    match parsed {
        Some((major, 0..=3)) if (1..=26).contains(&major) => {
            path.remove(0);
            let is_live = LIVE.contains(&first.as_str());
            Ok(if is_live { first } else { LIVE[0].to_owned() })
        }
        Some(_) => Err(unknown_path(path)),
        None if first.contains('.') => Err(unknown_path(path)),
        None => Ok(DEFAULT.to_owned()),
    }
}

fn unknown_path(path: &[String]) -> Refusal {
    let rest = path.get(1..).unwrap_or_default().join("/");
    Refusal::oauth(2500, None, &format!("Unknown path components: /{rest}"))
}

/// Who asks, and whether the token is alive and proven.
fn authenticate(
    simulator: &Simulator,
    headers: &HeaderMap,
    parameters: &BTreeMap<String, String>,
) -> Result<Caller, Refusal> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|text| {
        text.strip_prefix("Bearer ")
            .or_else(|| text.strip_prefix("OAuth "))
    });
    let Some(text) = bearer.or_else(|| parameters.get("access_token").map(String::as_str)) else {
        return Ok(Caller::Nobody);
    };
    let facebook = simulator.facebook();
    let app = &facebook.app;
    if text == format!("{}|{}", app.id, app.secret) {
        return Ok(Caller::App);
    }
    let token = facebook.tokens.get(text).cloned();
    let token = token.ok_or_else(|| {
        Refusal::oauth(
            190,
            None,
            "Invalid OAuth access token - Cannot parse access token",
        )
    })?;
    if let Some(subcode) = dead(&token, facebook.now()) {
        let message = format!("Error validating access token: the session is over ({subcode})");
        return Err(Refusal::oauth(190, Some(subcode), &message));
    }
    match parameters.get("appsecret_proof") {
        Some(proof) if *proof != crate::bytes::hmac_hex(&app.secret, text.as_bytes()) => {
            Err(Refusal::new(
                400,
                "GraphMethodException",
                100,
                None,
                "Invalid appsecret_proof provided in the API argument",
            ))
        }
        None if facebook.habits.require_proof => Err(Refusal::new(
            400,
            "GraphMethodException",
            100,
            None,
            "API calls from the server require an appsecret_proof argument",
        )),
        _ => Ok(Caller::Token(token)),
    }
}

/// The subcode of a token's death, if it is dead.
pub(crate) fn dead(token: &Token, now: u64) -> Option<u64> {
    let expired = token.expires.is_some_and(|expires| expires <= now);
    token.dead.or(expired.then_some(463))
}

pub(crate) async fn dispatch(simulator: &Simulator, call: &Call) -> Answer {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match (call.method.as_str(), path.as_slice()) {
        ("GET" | "POST", ["oauth", "access_token"]) => oauth::access_token(simulator, call),
        ("GET", ["debug_token"]) => oauth::debug_token(simulator, call),
        ("GET" | "DELETE", ["me", "permissions"]) => oauth::permissions(simulator, call, None),
        ("DELETE", ["me", "permissions", one]) => oauth::permissions(simulator, call, Some(one)),
        ("GET", ["me", "accounts"]) => edges::accounts(simulator, call),
        ("GET", ["me"]) => edges::me(simulator, call),
        ("GET", []) => edges::ids(simulator, call),
        ("POST", []) => edges::batch(simulator, call).await,
        (_, [id, "subscriptions"]) => subscriptions::of_app(simulator, call, id).await,
        (_, [id, "subscribed_apps"]) => subscriptions::of_page(simulator, call, id),
        ("GET", [id]) => edges::node(simulator, call, id),
        (_, [_, rest @ ..]) => {
            let message = format!("Unknown path components: /{}", rest.join("/"));
            Err(Refusal::oauth(2500, None, &message))
        }
        _ => Err(Refusal::oauth(100, None, "Unsupported request")),
    }
}

fn respond(
    simulator: &Simulator,
    version: &str,
    canned: Option<Canned>,
    answer: Answer,
) -> Response {
    let (mut status, mut body) = match answer {
        Ok(body) => (200, body),
        Err(refusal) => (refusal.status, json!({"error": refusal.error})),
    };
    let facebook = simulator.facebook();
    let date = UNIX_EPOCH + Duration::from_secs(facebook.now());
    let mut headers: BTreeMap<String, Option<String>> = BTreeMap::from([
        ("date".to_owned(), Some(httpdate::fmt_http_date(date))),
        (
            "content-type".to_owned(),
            Some("application/json; charset=UTF-8".to_owned()),
        ),
        ("facebook-api-version".to_owned(), Some(version.to_owned())),
        ("cache-control".to_owned(), Some("no-store".to_owned())),
    ]);
    let habits = facebook.habits.headers.clone();
    headers.extend(habits.into_iter().map(|(name, value)| (name, Some(value))));
    drop(facebook);
    let mut bytes = Vec::new();
    if let Some(canned) = canned {
        if canned.body.is_some() || canned.status != 200 {
            status = canned.status;
        }
        bytes = vec![b' '; canned.padding];
        headers.extend(canned.headers);
        lay_over(&mut body, &canned.patch);
        body = canned.body.unwrap_or(body);
    }
    match body {
        Value::String(text) => bytes.extend(text.into_bytes()),
        body => bytes.extend(body.to_string().into_bytes()),
    }
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    for (name, value) in headers {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        // A line each: some tests want a header twice.
        let values = value.iter().flat_map(|value| value.split('\n'));
        for value in values.filter_map(|value| HeaderValue::from_str(value).ok()) {
            response.headers_mut().append(name.clone(), value);
        }
    }
    response
}

/// Lays fields over an object, or over each object of its `data`.
fn lay_over(body: &mut Value, patch: &serde_json::Map<String, Value>) {
    if patch.is_empty() {
        return;
    }
    let objects: Vec<&mut Value> = if body.get("data").is_some_and(Value::is_array) {
        body["data"].as_array_mut().into_iter().flatten().collect()
    } else {
        vec![body]
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

/// The Page a token is for, if it is a Page's.
pub(crate) fn page_of(token: &Token) -> Option<&str> {
    match &token.kind {
        Kind::Page(id) => Some(id),
        Kind::User => None,
    }
}
