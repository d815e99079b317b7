//! Receiving webhooks: prove, sort, make durable, answer.
//!
//! | what comes | answer |
//! |---|---|
//! | no signature, or a wrong one | 401 |
//! | a body longer than [`MAX_BODY`] | 413, and the connection closes |
//! | a body that is compressed | 415 |
//! | a body that does not arrive within [`BODY_DEADLINE`] | 408 |
//! | signed, and nothing of it applies | 200 |
//! | signed, and what applies or cannot be read is durable | 200 |
//! | signed, and the queue does not take it in time | 503: Facebook sends it again |

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use model::job::{Job, Unreadable};
use model::queue_name::QueueName;
use model::webhook::{ParsedDelivery, parse_delivery};

use crate::context::Context;
use crate::signature::{Claimed, SignedBody};

/// Longest body taken, in bytes. Facebook documents no limit; batches of 1,000 changes with every
/// character escaped stay below this.
pub const MAX_BODY: usize = 5 * 1024 * 1024;
/// From the headers to the last byte of the body.
pub const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// From the body to the answer, whatever the queue does.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(4);

/// `POST /facebook/webhook`.
pub(crate) async fn receive(State(context): State<Arc<Context>>, request: Request) -> Response {
    let status = match read_signed(&context, request).await {
        Ok(signed) => take_in(&context, &signed).await,
        Err(status) => status,
    };
    context.metrics.webhook_answers.count(label(status));
    if status == StatusCode::UNAUTHORIZED {
        context.unsigned_log.count(context.clock.now());
    }
    match status {
        StatusCode::OK => axum::Json(serde_json::json!({"status": "success"})).into_response(),
        // What is left of the body will not be read.
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
            (status, [(header::CONNECTION, "close")]).into_response()
        }
        status => status.into_response(),
    }
}

fn label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        401 => "401",
        408 => "408",
        413 => "413",
        415 => "415",
        503 => "503",
        _ => "other",
    }
}

async fn read_signed(context: &Context, request: Request) -> Result<SignedBody, StatusCode> {
    let (head, body) = request.into_parts();
    let claimed =
        Claimed::in_headers(&head.headers, context.allow_sha1).ok_or(StatusCode::UNAUTHORIZED)?;
    if is_compressed(&head.headers) {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let length = head
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > MAX_BODY) {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let body = read_body(body, MAX_BODY).await?;
    claimed
        .prove(&context.app_secrets, body)
        .ok_or(StatusCode::UNAUTHORIZED)
}

fn is_compressed(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The whole body, if it comes in time and is no longer than `max` bytes.
pub(crate) async fn read_body(body: Body, max: usize) -> Result<Bytes, StatusCode> {
    let read = Limited::new(body, max).collect();
    let read = tokio::time::timeout(BODY_DEADLINE, read)
        .await
        .map_err(|_| StatusCode::REQUEST_TIMEOUT)?;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| {
            if error.is::<LengthLimitError>() {
                StatusCode::PAYLOAD_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            }
        })
}

async fn take_in(context: &Context, signed: &SignedBody) -> StatusCode {
    let received = context.clock.now();
    let ParsedDelivery {
        entries,
        rejected,
        ignored: counted,
    } = parse_delivery(signed.bytes());
    for (name, n) in counted {
        context.metrics.webhook_parts_ignored.add(name, n);
    }
    for part in &rejected {
        tracing::warn!(
            reason = part.reason,
            bytes = part.body.len(),
            "a signed webhook cannot be read; it is kept"
        );
    }
    let webhooks = entries.into_iter().map(|entry| Job::Webhook {
        entry,
        received_at: received,
    });
    let unreadable = rejected.into_iter().map(|part| {
        Job::Unreadable(Unreadable {
            body: part.body,
            reason: part.reason,
            received_at: received,
        })
    });
    let jobs: Vec<Job> = webhooks.chain(unreadable).collect();
    if jobs.is_empty() {
        return StatusCode::OK;
    }
    let published = tokio::time::timeout(
        ANSWER_DEADLINE,
        context.queue.publish(QueueName::Webhooks, &jobs),
    )
    .await;
    match published {
        Ok(Ok(())) => {
            context.metrics.jobs_published.inc_by(jobs.len() as u64);
            StatusCode::OK
        }
        Ok(Err(error)) => {
            tracing::warn!(error = %error, "a webhook is not durable; Facebook will send it again");
            StatusCode::SERVICE_UNAVAILABLE
        }
        Err(_) => {
            tracing::warn!("a webhook is not durable in time; Facebook will send it again");
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}
