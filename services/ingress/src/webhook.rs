//! Receives webhooks: verifies the signature, publishes the jobs of the delivery, and answers.
//!
//! Invariant: the answer is 200 only if the delivery contains no job, or after the queue has made
//! each of its jobs durable. If another program gets the delivery, its copy is one of these jobs.
//!
//! | webhook request | answer |
//! |---|---|
//! | The signature is missing or wrong. | 401 |
//! | The body is longer than [`MAX_BODY`]. | 413, and the connection closes |
//! | The body is compressed. | 415 |
//! | The body does not arrive within [`BODY_DEADLINE`](crate::body::BODY_DEADLINE), or it was the largest when the memory for unfinished bodies was used up. | 408, and the connection closes |
//! | The signature is valid, and the delivery contains no job. | 200 |
//! | The signature is valid, and the queue made the jobs durable. | 200 |
//! | The signature is valid, but the jobs are not durable in time. | 503; Facebook sends it again |

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::http::ConnectionPlace;
use model::job::{Job, Unreadable};
use model::queue_name::QueueName;
use model::time::HostTime;
use model::webhook::{ParsedWebhook, parse_webhook};

use crate::context::Context;
use crate::signature::{Signature, SignedBody};

/// The longest accepted body, in bytes. Facebook documents no limit. A batch of 1,000 changes with
/// every character escaped is shorter.
pub const MAX_BODY: usize = 5 * 1024 * 1024;
/// How long the queue may take to make jobs durable before the answer is 503.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(4);

/// Handles `POST /facebook/webhook`.
pub(crate) async fn receive(State(context): State<Arc<Context>>, request: Request) -> Response {
    let status = match read_signed(&context, request).await {
        Ok((signed, headers)) => publish_webhook(&context, &signed, &headers).await,
        Err(status) => status,
    };
    context.metrics.webhook_answers.count(status_label(status));
    if status == StatusCode::UNAUTHORIZED {
        context.refused_webhooks.count(context.clock.now());
    }
    match status {
        StatusCode::OK => axum::Json(serde_json::json!({"status": "success"})).into_response(),
        // The rest of the body is not read, so the connection cannot be used again.
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
            (status, [(header::CONNECTION, "close")]).into_response()
        }
        status => status.into_response(),
    }
}

/// Returns the metric label of an answer with `status`.
fn status_label(status: StatusCode) -> &'static str {
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

/// Reads the body and verifies its signature. Returns it with the headers of the request; fails with the
/// status of the answer.
async fn read_signed(
    context: &Context,
    request: Request,
) -> Result<(SignedBody, HeaderMap), StatusCode> {
    let (head, body) = request.into_parts();
    let place = head.extensions.get::<ConnectionPlace>().cloned();
    let signature = Signature::from_headers(&head.headers, context.allow_sha1)
        .ok_or(StatusCode::UNAUTHORIZED)?;
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
    let body = context.body_memory.read(body, MAX_BODY).await?;
    let signed = signature
        .verify(&context.app_secrets, body)
        .ok_or(StatusCode::UNAUTHORIZED)?;
    // Connections of other clients must not end this one while its jobs become durable.
    if let Some(place) = place {
        place.hold();
    }
    Ok((signed, head.headers))
}

fn is_compressed(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Splits a delivery into jobs and publishes them; returns the status of the answer.
async fn publish_webhook(
    context: &Context,
    signed: &SignedBody,
    headers: &HeaderMap,
) -> StatusCode {
    let received_at = context.clock.now();
    let parsed = parse_webhook(signed.bytes());
    let forwarding = context.forwarding.as_ref();
    let forwarding = forwarding.filter(|forwarding| forwarding.is_forwarded(&parsed));
    let forward =
        forwarding.map(|forwarding| forwarding.job(headers, signed.bytes(), &parsed, received_at));
    let forward = match forward.transpose() {
        Ok(forward) => forward,
        Err(error) => {
            tracing::error!(error = %error, "a webhook cannot be sealed for forwarding; Facebook will send it again");
            return StatusCode::SERVICE_UNAVAILABLE;
        }
    };
    count_ignored(context, &parsed, forward.is_some());
    let jobs = page_jobs(parsed, received_at);
    // Both are published, although one of them may fail: the changes of Pages do not wait for a queue of
    // deliveries that is full.
    let (pages, forwarded) = tokio::join!(
        publish(context, QueueName::Webhooks, &jobs),
        publish(context, QueueName::Forwards, forward.as_slice()),
    );
    if pages && forwarded {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// Counts the parts of a delivery that are not about the profile of a Page. They are dropped unless the
/// delivery is forwarded.
fn count_ignored(context: &Context, parsed: &ParsedWebhook, is_forwarded: bool) {
    for (name, n) in &parsed.ignored {
        context.metrics.webhook_parts_ignored.add(name, *n);
        if !is_forwarded {
            context.dropped.add(name, *n);
        }
    }
}

/// Returns the jobs that change Pages, and those of the parts that cannot be read.
fn page_jobs(parsed: ParsedWebhook, received_at: HostTime) -> Vec<Job> {
    for part in &parsed.rejected {
        tracing::warn!(
            reason = part.reason,
            bytes = part.body.len(),
            "a signed webhook cannot be read; it is stored as a dead letter"
        );
    }
    let webhooks = parsed
        .entries
        .into_iter()
        .map(|entry| Job::Webhook { entry, received_at });
    let unreadable = parsed.rejected.into_iter().map(|part| {
        Job::Unreadable(Unreadable {
            body: part.body,
            reason: part.reason,
            received_at,
        })
    });
    webhooks.chain(unreadable).collect()
}

/// Publishes jobs, and returns whether the queue has made all of them durable in time.
async fn publish(context: &Context, queue_name: QueueName, jobs: &[Job]) -> bool {
    if jobs.is_empty() {
        return true;
    }
    let published = context.queue.publish(queue_name, jobs);
    match tokio::time::timeout(ANSWER_DEADLINE, published).await {
        Ok(Ok(())) => {
            context.metrics.jobs_published.inc_by(jobs.len() as u64);
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(queue_name = %queue_name, error = %error, "a webhook was not made durable; Facebook will send it again");
            false
        }
        Err(_) => {
            tracing::warn!(queue_name = %queue_name, "a webhook was not made durable in time; Facebook will send it again");
            false
        }
    }
}
