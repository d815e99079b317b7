//! Finds the problems of a deployment, except those of single Pages.
//!
//! Invariant: a problem is found from what is stored or from the state of the queue at this time. The stored
//! alerts only decide whether a problem that is open already has ended.

use std::time::Duration;

use common::records::alert::{Alert, AlertKind, Finding};
use common::records::connection::{self, Connection, Status};
use common::records::dead_letter::usage::Usage;
use common::records::destination::Destination;
use common::records::expiry::{self, ALERT_DAYS};
use common::records::forwarding::Forwarding;
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
/// How long after the end of its lease a destination of changes counts as used.
const USED_FOR: Duration = Duration::from_secs(24 * 3600);

/// Returns every problem at `now`. `known` are the stored alerts. Fails if the store does not answer.
pub(super) async fn find(
    context: &AlertContext,
    known: &[Versioned<Alert>],
    now: HostTime,
) -> Result<Vec<Finding>, StoreError> {
    let mut findings = queue(context).await;
    for connection in connection::list(&*context.store).await? {
        findings.extend(of_connection(&connection, known, now));
    }
    findings.extend(webhooks(context, known, now).await?);
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

/// Returns the stored alert with this id if its problem is open.
fn open<'a>(known: &'a [Versioned<Alert>], id: &str) -> Option<&'a Alert> {
    let mut open = known.iter().map(|stored| &stored.value);
    open.find(|alert| alert.resolved_at.is_none() && alert.id() == id)
}

/// Returns the problems of a connection.
fn of_connection(
    connection: &Connection,
    known: &[Versioned<Alert>],
    now: HostTime,
) -> Vec<Finding> {
    let reason = |default: &str| {
        let problem = connection.problem.clone();
        problem.unwrap_or_else(|| default.to_owned())
    };
    let finding = |kind, cause: String| Finding {
        client: connection.client.clone(),
        ..Finding::new(kind, connection.user.as_str(), cause)
    };
    let last_poll = connection.last_poll.as_ref().map(|last| last.ended_at);
    let complete_since = last_poll.max(Some(connection.connected_at));
    let overdue = complete_since.filter(|at| at.until(now) >= POLL_OVERDUE);
    let unusable = match connection.status {
        Status::NeedsLogin => Some((AlertKind::LoginEnded, reason("the token is invalid"))),
        Status::NeedsPermission => {
            let cause = reason("a permission is missing");
            Some((AlertKind::PermissionLost, cause))
        }
        Status::NeedsKey => {
            let cause = reason("the worker does not have the key");
            Some((AlertKind::KeyMissing, cause))
        }
        Status::Active => overdue.map(|at| {
            let cause = format!("the last complete poll ended at {}", rfc3339(at));
            (AlertKind::PollIncomplete, cause)
        }),
    };
    let mut findings = Vec::new();
    findings.extend(unusable.map(|(kind, cause)| finding(kind, cause)));
    findings.extend(ending(connection, now).filter(|ending| {
        // A login that has ended is told as such. If its end was announced, both are resolved together.
        connection.status != Status::NeedsLogin || open(known, &ending.id()).is_some()
    }));
    if connection.status != Status::Active {
        // What was wrong before is not mended by what is worse.
        for kind in [AlertKind::PermissionLost, AlertKind::PollIncomplete] {
            let id = finding(kind, String::new()).id();
            let is_found = findings.iter().any(|found| found.kind == kind);
            if let Some(alert) = open(known, &id).filter(|_| !is_found) {
                findings.push(finding(kind, alert.cause.clone()));
            }
        }
    }
    findings
}

/// Returns the finding of a connection that expires soon.
fn ending(connection: &Connection, now: HostTime) -> Option<Finding> {
    let days_left = expiry::days_left(connection, now)?;
    let steps = ALERT_DAYS.into_iter().filter(|days| days_left <= *days);
    let step = steps.min()?;
    let end = expiry::expires_at(connection);
    let end_text = end.map(|end| format!(" at {}", rfc3339(end)));
    let end_text = end_text.unwrap_or_default();
    let what = if connection.token_expires_at == end {
        "the token expires"
    } else {
        "Facebook stops returning data"
    };
    Some(Finding {
        client: connection.client.clone(),
        step: Some(step),
        ..Finding::new(
            AlertKind::LoginEnding,
            connection.user.as_str(),
            format!("{what}{end_text}"),
        )
    })
}

/// Finds out why no webhooks arrive.
async fn webhooks(
    context: &AlertContext,
    known: &[Versioned<Alert>],
    now: HostTime,
) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    let store = &*context.store;
    let app = load_if_decodable::<app::App>(store, &app::key()).await?;
    if let Some(problem) = app.and_then(|app| app.value.problem) {
        findings.push(Finding::new(AlertKind::WebhooksStopped, "app", problem));
    }
    let mut silence = Finding::new(AlertKind::WebhooksStopped, "silence", "");
    let open_since = open(known, &silence.id()).map(|alert| alert.opened_at);
    if let Some(hours) = webhook_hour::unusual_silence(store, open_since, now).await? {
        silence.cause = format!("no webhook has arrived for {hours} hours");
        findings.push(silence);
    }
    Ok(findings)
}

/// Finds the bot and the destinations of changes that accept nothing.
async fn receivers(context: &AlertContext) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    let store = &*context.store;
    if context.config.forward.is_some() {
        let state = match forwarding::find(store).await {
            // A state that this build cannot decode hides no other problem.
            Err(error) if !error.is_outage() => Forwarding::default(),
            found => found?.value,
        };
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
        // If the process that posts ends, its lease shows for a while that the destination is in use.
        let is_used = lease.owned_until.plus(USED_FOR) > now;
        if failures > 0 && !is_paused && is_used {
            let cause = last_failure.unwrap_or_default();
            findings.push(Finding::new(AlertKind::ChangesNotAccepted, name, cause));
        }
    }
    Ok(findings)
}
