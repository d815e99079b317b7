//! Finds the problems of a deployment, except those of single Pages.
//!
//! Invariant: a finding follows from what is stored or from the state of the queue at this time, and not from
//! earlier findings.

use std::time::Duration;

use common::records::alert::{Alert, AlertKind, Finding};
use common::records::connection::{self, Connection, Status};
use common::records::dead_letter::usage::Usage;
use common::records::destination::Destination;
use common::records::expiry::{self, ALERT_DAYS};
use common::records::{
    app, forwarding, load_all, load_if_decodable, waiting_delivery, webhook_hour,
};
use common::store::{RecordKind, StoreError, Versioned};
use common::timestamp::rfc3339;
use model::queue_name::QueueName;
use model::time::HostTime;

use super::context::AlertContext;
use super::pages;

/// How long after the last complete poll of a connection its next daily poll is overdue. The daily slots of
/// two days are at most 25 hours apart.
const POLL_OVERDUE: Duration = Duration::from_secs(26 * 3600);

/// Returns every problem at `now`. `known` are the stored alerts. Fails if the store does not answer.
pub(super) async fn find(
    context: &AlertContext,
    known: &[Versioned<Alert>],
    now: HostTime,
) -> Result<Vec<Finding>, StoreError> {
    let mut findings = queue(context).await;
    for connection in connection::list(&*context.store).await? {
        findings.extend(of_connection(&connection, now));
    }
    findings.extend(webhooks(context, now).await?);
    findings.extend(receivers(context).await?);
    let usage = Usage::load(&*context.store, now).await?;
    let not_stored: u64 = usage.not_stored.values().sum();
    if usage.count + not_stored > 0 {
        let stored = usage.count;
        let cause = match not_stored {
            0 => format!("{stored} jobs failed for good and are stored"),
            more => format!(
                "{stored} jobs failed for good and are stored, and {more} more were only counted"
            ),
        };
        findings.push(Finding::new(AlertKind::DeadLetters, "all", cause));
    }
    findings.extend(pages::find(context, known, now).await?);
    Ok(findings)
}

/// Finds problems of the queue, and whether a worker receives from it.
async fn queue(context: &AlertContext) -> Vec<Finding> {
    let cause = match context.queue.depth(QueueName::Webhooks).await {
        Err(error) => Some(("queue", format!("the queue does not answer: {error}"))),
        Ok(depth) if depth.consumers == 0 => Some((
            "workers",
            format!(
                "no worker receives webhooks, of which {} messages wait",
                depth.messages
            ),
        )),
        Ok(_) => context
            .queue
            .check()
            .await
            .err()
            .map(|error| ("queue", format!("the queue accepts no messages: {error}"))),
    };
    cause
        .map(|(subject, cause)| Finding::new(AlertKind::ProcessingPaused, subject, cause))
        .into_iter()
        .collect()
}

/// Returns the problem of a connection.
fn of_connection(connection: &Connection, now: HostTime) -> Option<Finding> {
    let reason = |default: &str| {
        let problem = connection.problem.clone();
        problem.unwrap_or_else(|| default.to_owned())
    };
    let finding = |kind, cause: String| Finding {
        client: connection.client.clone(),
        ..Finding::new(kind, connection.user.as_str(), cause)
    };
    match connection.status {
        Status::NeedsLogin => {
            return Some(finding(
                AlertKind::LoginEnded,
                reason("the token is invalid"),
            ));
        }
        Status::NeedsPermission => {
            return Some(finding(
                AlertKind::PermissionLost,
                reason("a permission is missing"),
            ));
        }
        Status::NeedsKey => {
            return Some(finding(
                AlertKind::KeyMissing,
                reason("the worker does not have the key"),
            ));
        }
        Status::Active => {}
    }
    let last_poll = connection.last_poll.as_ref().map(|last| last.began_at);
    let complete_since = last_poll.max(Some(connection.connected_at));
    if let Some(at) = complete_since.filter(|at| at.until(now) >= POLL_OVERDUE) {
        let default = format!("the last complete poll began at {}", rfc3339(at));
        return Some(finding(AlertKind::PollIncomplete, reason(&default)));
    }
    let days_left = expiry::days_left(connection, now)?;
    let step = ALERT_DAYS.into_iter().filter(|days| days_left <= *days);
    let step = Some(step.min()?);
    let end = expiry::expires_at(connection)?;
    let what = if connection.token_expires_at == Some(end) {
        "the token expires"
    } else {
        "Facebook stops returning data"
    };
    Some(Finding {
        step,
        ..finding(
            AlertKind::LoginEnding,
            format!("{what} at {}", rfc3339(end)),
        )
    })
}

/// Finds out why no webhooks arrive.
async fn webhooks(context: &AlertContext, now: HostTime) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    let store = &*context.store;
    let app = load_if_decodable::<app::App>(store, &app::key()).await?;
    if let Some(problem) = app.and_then(|app| app.value.problem) {
        findings.push(Finding::new(AlertKind::WebhooksStopped, "app", problem));
    }
    if let Some(hours) = webhook_hour::unusual_silence(store, now).await? {
        let cause = format!(
            "no webhook has arrived for {hours} hours, which is twice as long as ever in the last 14 days"
        );
        findings.push(Finding {
            // The number of hours changes, and must not make a new alert.
            cause,
            ..Finding::new(AlertKind::WebhooksStopped, "silence", "")
        });
    }
    Ok(findings)
}

/// Finds the bot and the destinations of changes that accept nothing.
async fn receivers(context: &AlertContext) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    let store = &*context.store;
    if context.config.forward.is_some() {
        let state = forwarding::find(store).await?.value;
        let cause = match state.down_since {
            Some(since) => {
                let reason = state.last_failure.unwrap_or_default();
                Some(format!("since {}: {reason}", rfc3339(since)))
            }
            // It may refuse single deliveries, or get too few of them to count as down.
            None => waiting_delivery::oldest(store).await?.map(|received_at| {
                let at = rfc3339(received_at);
                format!("it has not accepted a delivery that was received at {at}")
            }),
        };
        let finding = |cause| Finding::new(AlertKind::BotUnreachable, "bot", cause);
        findings.extend(cause.map(finding));
    }
    let now = store.now().await?;
    for (name, stored) in load_all::<Destination>(store, RecordKind::Destination, "").await? {
        let Destination {
            is_paused,
            lease,
            failures,
            last_failure,
            ..
        } = stored.value;
        if failures > 0 && !is_paused && lease.is_held(now) {
            let cause = last_failure.unwrap_or_default();
            findings.push(Finding::new(AlertKind::ChangesNotAccepted, name, cause));
        }
    }
    Ok(findings)
}
