//! Check of forwarding: sends a marked probe through ingress, queue and worker to the program.

use std::time::{Duration, Instant};

use common::backends::{Backends, open_store};
use common::clock::Clock;
use common::config::Config;
use common::database::Access;
use common::records::{forwarding, load_record, probe, waiting_delivery};
use common::sealing::random_text;
use common::signing::webhook_signature;
use common::store::{Store, StoreError};
use common::timestamp::rfc3339;
use common::views::check::{Check, State};
use model::queue_name::QueueName;
use model::webhook::FORWARD_PROBE_PREFIX;
use reqwest::StatusCode;
use serde_json::json;

use super::facebook::client;
use super::local::SEE_STORE;

const NAME: &str = "forwarding";
/// How long the program may take to accept the probe.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The time between two reads of the store.
const INTERVAL: Duration = Duration::from_millis(20);

/// Appends the result of the check to `checks`. There is none if nothing is forwarded and nothing waits.
pub(super) async fn run_checks(config: &Config, clock: &Clock, checks: &mut Vec<Check>) {
    let Ok(store) = open_store(config, clock.clone()) else {
        return;
    };
    let checked = if config.forward.is_some() {
        forwarding(config, clock, &*store).await.map(Some)
    } else {
        left_over(config, clock, &*store).await
    };
    match checked {
        Ok(check) => checks.extend(check),
        Err(error) => checks.push(Check::problem(
            NAME,
            State::Failed,
            error.to_string(),
            SEE_STORE,
        )),
    }
}

/// Warns if deliveries wait although no program is configured.
async fn left_over(
    config: &Config,
    clock: &Clock,
    store: &dyn Store,
) -> Result<Option<Check>, StoreError> {
    let waiting = waiting_delivery::next_chunk(store, &mut None).await?;
    let has_records = waiting.is_some_and(|waiting| !waiting.is_empty());
    let opened = Backends::open(config, "doctor", Access::Shared, clock.clone()).await;
    let queued = match opened {
        Ok(backends) => backends.queue.depth(QueueName::Forwards).await.ok(),
        // The check of the queue reports it.
        Err(_) => None,
    };
    let is_queued = queued.is_some_and(|depth| depth.messages > 0);
    Ok((has_records || is_queued).then(|| {
        let detail = "deliveries wait to be forwarded, but PAGESYNC_FORWARD_URL is not set here";
        let fix = "set it for ingress and worker, and restart them";
        Check::problem(NAME, State::Warning, detail, fix)
    }))
}

async fn forwarding(
    config: &Config,
    clock: &Clock,
    store: &dyn Store,
) -> Result<Check, StoreError> {
    let (Some(address), Some(secret)) = (&config.webhook_address, config.app_secrets.first())
    else {
        let reason = "FACEBOOK_WEBHOOK_ADDRESS or FACEBOOK_APP_SECRET is not set on this host";
        return Ok(Check::skipped(NAME, reason));
    };
    let Ok(nonce) = random_text(16) else {
        return Ok(Check::skipped(NAME, "there are no random bytes"));
    };
    let change =
        json!({"field": "pagesync_probe", "value": format!("{FORWARD_PROBE_PREFIX}{nonce}")});
    let entry = json!({"id": "0", "time": clock.now().0 / 1000, "changes": [change]});
    let body = json!({"object": "page", "entry": [entry]}).to_string();
    let began = Instant::now();
    let answer = match client() {
        Some(client) => {
            let request = client
                .post(address)
                .header("content-type", "application/json")
                .header("x-hub-signature-256", webhook_signature(secret, &body))
                .body(body);
            request.send().await.ok()
        }
        None => None,
    };
    match answer.map(|answer| answer.status()) {
        None => {
            let detail = "no probe was sent, because the webhook address does not answer this host";
            let fix = "see the check of the public address";
            return Ok(Check::problem(NAME, State::Warning, detail, fix));
        }
        Some(StatusCode::OK) => {}
        Some(status) => {
            let detail = format!("ingress answered a probe with {status}");
            let fix = "see the check of the queue: webhooks are answered 503 while `forwards` is full or the broker blocks";
            return Ok(Check::problem(NAME, State::Failed, detail, fix));
        }
    }
    let mut interval = tokio::time::interval(INTERVAL);
    while began.elapsed() < TIMEOUT {
        interval.tick().await;
        let arrived = load_record::<probe::Probe>(store, &probe::key(&nonce)).await?;
        if arrived.is_some() {
            let state = forwarding::find(store).await?.value;
            let detail = format!(
                "the program accepted a probe after {} ms, and {} deliveries before",
                began.elapsed().as_millis(),
                state.accepted
            );
            return Ok(Check::ok(NAME, detail));
        }
    }
    not_accepted(store).await
}

async fn not_accepted(store: &dyn Store) -> Result<Check, StoreError> {
    let state = forwarding::find(store).await?.value;
    let reason = match (state.last_failure, state.lease.owner) {
        (Some(failure), _) => failure,
        (None, None) => "no worker forwards deliveries".to_owned(),
        (None, Some(_)) => "the reason is in the log of the worker".to_owned(),
    };
    let since = state.down_since.map(rfc3339);
    let since = since.map_or_else(String::new, |since| format!(", since {since}"));
    let seconds = TIMEOUT.as_secs();
    let detail = format!("the program did not accept a probe within {seconds} s: {reason}{since}");
    let fix = "check that the program at PAGESYNC_FORWARD_URL runs and answers 200, and that this setting is the same for ingress and worker; the deliveries wait, and are sent when it does";
    Ok(Check::problem(NAME, State::Failed, detail, fix))
}
