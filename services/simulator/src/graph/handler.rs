//! Receives requests to Graph and builds their responses.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::Response;

use super::answer_fault::{choose_fault, error_instead_of_answer, spoil_answer};
use super::authentication::{authenticate, credentials};
use super::batch::batch;
use super::call::{Call, Caller, path_parts};
use super::dispatch::{count, dispatch, method_of};
use super::parameters::{read_body, read_form};
use super::response::respond;
use super::version::{DEFAULT_VERSION, take_version};
use crate::simulator::Simulator;

/// Returns the address under which the caller reached the simulator, with the version.
fn base(headers: &HeaderMap, version: &str) -> String {
    let host = headers.get(header::HOST);
    let host = host
        .and_then(|host| host.to_str().ok())
        .unwrap_or("localhost");
    format!("http://{host}/{version}")
}

/// Answers a request that is neither for the dialog nor for the control API.
pub(crate) async fn handle(
    State(simulator): State<Simulator>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut path = path_parts(uri.path());
    let version = match take_version(&mut path) {
        Ok(version) => version,
        Err(refusal) => return respond(&simulator, DEFAULT_VERSION, None, Err(refusal)),
    };
    let mut parameters = read_form(uri.query().unwrap_or_default().as_bytes());
    parameters.extend(read_body(&headers, body).await);
    let (caller, unauthenticated) = match authenticate(&simulator, &headers, &parameters) {
        Ok(caller) => (caller, None),
        Err(refusal) => (Caller::Anonymous, Some(refusal)),
    };
    let call = Call {
        method: method_of(method, &parameters),
        path,
        credentials: credentials(&headers, &parameters),
        parameters,
        caller,
        base: base(&headers, &version),
        version: version.clone(),
    }
    .with_own_id_as_me();
    // Calls are counted even if their token is refused.
    let reply = count(&simulator, &call);
    let named = reply.as_ref().and_then(|reply| reply.fault.clone());
    let fault = choose_fault(&simulator, named);
    let instead = fault.as_ref().and_then(error_instead_of_answer);
    let answer = match instead.or(unauthenticated) {
        Some(refusal) => Err(refusal),
        None if call.method == Method::POST && call.path.is_empty() => {
            batch(&simulator, &call).await
        }
        None => dispatch(&simulator, &call).await,
    };
    let response = respond(&simulator, &version, reply, answer);
    spoil_answer(&simulator, fault, response).await
}
