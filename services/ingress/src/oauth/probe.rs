//! The webhook test of a login: posts a probe, a signed webhook for the id 0, to the public
//! listener of this process, and waits until a worker has stored it.
//!
//! The probe is processed like every webhook, by ingress, queue, worker and store, but it changes
//! no Page.

use std::time::Duration;

use common::records::probe::{self, WebhookTest};
use common::records::{load_record, write_records};
use common::signing::webhook_signature;
use common::store::{CommitOutcome, StoreError};
use model::id::LoginId;
use model::webhook::PROBE_PREFIX;
use reqwest::StatusCode;
use serde_json::json;

use super::context::LoginContext;

/// How long the answer of the listener may take. A worker may take as long to store the probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The time between two reads of the store.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The reason why a probe did not reach the store. The text is the member `message` of the webhook
/// test.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// No app secret is configured, so the probe cannot be signed.
    #[error("FACEBOOK_APP_SECRET is missing")]
    NoAppSecret,
    /// The public listener did not answer within [`PROBE_TIMEOUT`].
    #[error("the public listener of ingress does not answer")]
    NoAnswer,
    /// Ingress answered with this status instead of 200.
    #[error("ingress answered {0}: the queue does not accept webhooks")]
    Refused(StatusCode),
    /// No worker stored the probe in time.
    #[error("the queue accepted the webhook, but no worker stored it within 10 s")]
    NotStored,
}

/// The result of the webhook test of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TestResult {
    /// The probe was sent and is not stored yet.
    Waiting,
    /// A worker stored the probe.
    Passed,
    /// The probe did not reach the store, for this reason.
    Failed(String),
}

/// Begins the webhook test of a login if no request has begun it, and returns its result so far. A
/// login sends one probe, however often its answer is requested.
pub(super) async fn test(context: &LoginContext, id: &LoginId) -> Result<TestResult, StoreError> {
    let store = &*context.store;
    let new = WebhookTest {
        began_at: context.clock.now(),
        problem: None,
    };
    let begun = write_records(store, vec![probe::test_write(id, &new, Some(0))]).await?;
    if begun == CommitOutcome::Applied
        && let Err(error) = send(context, id.as_str()).await
    {
        let problem = Some(error.to_string());
        let failed = WebhookTest { problem, ..new };
        write_records(store, vec![probe::test_write(id, &failed, None)]).await?;
    }
    let arrived = load_record::<probe::Probe>(store, &probe::key(id.as_str())).await?;
    if arrived.is_some() {
        return Ok(TestResult::Passed);
    }
    let stored = load_record::<WebhookTest>(store, &probe::test_key(id)).await?;
    Ok(match stored.map(|stored| stored.value) {
        Some(WebhookTest {
            problem: Some(problem),
            ..
        }) => TestResult::Failed(problem),
        Some(test) if test.began_at.until(context.clock.now()) > PROBE_TIMEOUT * 2 => {
            TestResult::Failed(ProbeError::NotStored.to_string())
        }
        _ => TestResult::Waiting,
    })
}

/// Makes the webhook test of a login and waits for its result.
pub(super) async fn run(context: &LoginContext, id: &LoginId) -> Result<TestResult, StoreError> {
    let deadline = tokio::time::Instant::now() + PROBE_TIMEOUT * 2;
    let mut interval = tokio::time::interval(CHECK_INTERVAL);
    loop {
        interval.tick().await;
        match test(context, id).await? {
            TestResult::Waiting if tokio::time::Instant::now() >= deadline => {
                return Ok(TestResult::Failed(ProbeError::NotStored.to_string()));
            }
            TestResult::Waiting => {}
            result => return Ok(result),
        }
    }
}

/// Posts a probe to the public listener of this process.
async fn send(context: &LoginContext, nonce: &str) -> Result<(), ProbeError> {
    let seconds = context.clock.now().0 / 1000;
    let change = json!({"field": "name", "value": format!("{PROBE_PREFIX}{nonce}")});
    let entry = json!({"id": "0", "time": seconds, "changes": [change]});
    let body = json!({"object": "page", "entry": [entry]}).to_string();
    let secret = context
        .config
        .app_secrets
        .first()
        .ok_or(ProbeError::NoAppSecret)?;
    let request = context
        .http
        .post(format!(
            "http://{}/facebook/webhook",
            context.public_address
        ))
        .timeout(PROBE_TIMEOUT)
        .header("content-type", "application/json")
        .header("x-hub-signature-256", webhook_signature(secret, &body))
        .body(body);
    let answer = request.send().await.map_err(|_| ProbeError::NoAnswer)?;
    let status = answer.status();
    if status != StatusCode::OK {
        return Err(ProbeError::Refused(status));
    }
    Ok(())
}
