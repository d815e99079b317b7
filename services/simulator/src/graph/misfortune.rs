//! Answers that go wrong: whether, how, and what is left of the real one.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use super::Refusal;
use crate::Simulator;
use crate::errors::{Fault, ROWS};

/// What befalls the next answer: `named` by a canned one, a used up limit, or chance.
pub(super) fn befalls(simulator: &Simulator, named: Option<String>) -> Option<Fault> {
    let mut facebook = simulator.facebook();
    if facebook.use_up().is_some_and(|percent| percent >= 100) {
        return Fault::parse("4");
    }
    let name = named.or_else(|| facebook.misfortune())?;
    Fault::parse(&name)
}

/// The error that takes the place of the real answer: the call has no effect.
pub(super) fn instead(fault: &Fault) -> Option<Refusal> {
    match fault {
        Fault::Error(row) => Some(Refusal {
            status: row.status,
            error: row.error(),
        }),
        Fault::TooMuch => {
            let mut error = ROWS[0].error();
            let message =
                "Please reduce the amount of data you're asking for, then retry your request";
            error["message"] = json!(message);
            Some(Refusal { status: 500, error })
        }
        _ => None,
    }
}

/// What the network and servers in between make of an answer. The call had its effect.
pub(super) async fn spoil(
    simulator: &Simulator,
    fault: Option<Fault>,
    mut response: Response,
) -> Response {
    let usage = simulator.facebook().usage.0;
    if usage > 0 {
        let used =
            json!({"call_count": usage, "total_time": usage / 2, "total_cputime": usage / 2});
        if let Ok(value) = HeaderValue::from_str(&used.to_string()) {
            response.headers_mut().insert("x-app-usage", value);
        }
    }
    let Some(fault) = fault else { return response };
    if matches!(fault, Fault::Slow) {
        let seconds = simulator.facebook().habits.slow_seconds;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return response;
    }
    if matches!(fault, Fault::WrongType) {
        let script = HeaderValue::from_static("text/javascript; charset=UTF-8");
        response.headers_mut().insert(header::CONTENT_TYPE, script);
        return response;
    }
    let whole = to_bytes(std::mem::take(response.body_mut()), usize::MAX).await;
    let whole = whole.unwrap_or_default();
    let half = whole.slice(..whole.len() / 2);
    match fault {
        Fault::Html => {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            let html = HeaderValue::from_static("text/html");
            response.headers_mut().insert(header::CONTENT_TYPE, html);
            *response.body_mut() = Body::from("<html><body><h1>502 Bad Gateway</h1></body></html>");
        }
        Fault::Reset => *response.body_mut() = broken(half),
        Fault::Truncated => *response.body_mut() = Body::from(half),
        Fault::Empty => *response.body_mut() = Body::empty(),
        Fault::No => *response.body_mut() = Body::from("false"),
        Fault::Error(_) | Fault::TooMuch | Fault::Slow | Fault::WrongType => {
            *response.body_mut() = Body::from(whole);
        }
    }
    response
}

/// A body that breaks off: the server closes the connection before its end.
fn broken(begin: Bytes) -> Body {
    let parts = [
        Ok(begin),
        Err(std::io::Error::other("the connection broke")),
    ];
    Body::from_stream(futures_util::stream::iter(parts))
}
