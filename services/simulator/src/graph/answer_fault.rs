//! Chooses the fault of an answer and applies it.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use super::refusal::ErrorReply;
use crate::errors::AnswerFault;
use crate::simulator::Simulator;

/// Returns the fault of the next answer: an exhausted rate limit, the fault that a scripted reply
/// names, or one chosen at random. Returns `None` if the answer has no fault.
pub(super) fn choose_fault(simulator: &Simulator, named: Option<String>) -> Option<AnswerFault> {
    let mut facebook = simulator.facebook();
    let used = facebook.count_against_limit();
    if used.is_some_and(|percent| percent >= 100) {
        return AnswerFault::parse("4");
    }
    let name = named.or_else(|| facebook.choose_fault())?;
    AnswerFault::parse(&name)
}

/// Returns the error that replaces the answer and prevents the effect of the call. Returns `None`
/// for a fault with which the call still has its effect.
pub(super) fn error_instead_of_answer(fault: &AnswerFault) -> Option<ErrorReply> {
    match fault {
        AnswerFault::Error(error) => Some(ErrorReply {
            status: error.status,
            error: error.to_json(),
        }),
        AnswerFault::TooMuchData => Some(ErrorReply::too_much_data()),
        _ => None,
    }
}

/// Returns the response as a client receives it: with the usage header, and with a fault of the
/// network or of an intermediate server. The call has already had its effect.
pub(super) async fn spoil_answer(
    simulator: &Simulator,
    fault: Option<AnswerFault>,
    mut response: Response,
) -> Response {
    add_usage(simulator, &mut response);
    match fault {
        None | Some(AnswerFault::Error(_) | AnswerFault::TooMuchData) => {}
        Some(AnswerFault::Slow) => {
            let seconds = simulator.facebook().graph_faults.slow_answer_seconds;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        Some(AnswerFault::WrongType) => {
            set_type(&mut response, "text/javascript; charset=UTF-8");
        }
        Some(AnswerFault::HtmlPage) => {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            set_type(&mut response, "text/html");
            *response.body_mut() = Body::from("<html><body><h1>502 Bad Gateway</h1></body></html>");
        }
        Some(AnswerFault::Reset) => {
            let half = take_first_half(&mut response).await;
            *response.body_mut() = broken_body(half);
        }
        Some(AnswerFault::Truncated) => {
            let half = take_first_half(&mut response).await;
            *response.body_mut() = Body::from(half);
        }
        Some(AnswerFault::Empty) => *response.body_mut() = Body::empty(),
        Some(AnswerFault::False) => *response.body_mut() = Body::from("false"),
    }
    response
}

/// Adds the header `x-app-usage` if a part of the app's rate limit is used.
fn add_usage(simulator: &Simulator, response: &mut Response) {
    let percent = simulator.facebook().usage.percent;
    if percent == 0 {
        return;
    }
    let half = percent / 2;
    let usage = json!({"call_count": percent, "total_time": half, "total_cputime": half});
    if let Ok(value) = HeaderValue::from_str(&usage.to_string()) {
        response.headers_mut().insert("x-app-usage", value);
    }
}

fn set_type(response: &mut Response, content_type: &'static str) {
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
}

/// Removes the body of a response and returns the first half of it.
async fn take_first_half(response: &mut Response) -> Bytes {
    let whole = to_bytes(std::mem::take(response.body_mut()), usize::MAX).await;
    let whole = whole.unwrap_or_default();
    whole.slice(..whole.len() / 2)
}

/// Returns a body that sends `beginning` and then breaks the connection.
fn broken_body(beginning: Bytes) -> Body {
    let parts = [
        Ok(beginning),
        Err(std::io::Error::other("the connection broke")),
    ];
    Body::from_stream(futures_util::stream::iter(parts))
}
