//! The JSON of due polls and daily polls.

use model::id::UserId;
use model::queue_name::QueueName;
use model::time::HostTime;
use serde::Serialize;
use utoipa::ToSchema;

use crate::records::daily_poll::{DailyPoll, DailyPollResult};
use crate::records::{app, load_all, load_record, rate_limit};
use crate::store::{DueEntry, RecordKind, Store, StoreError};
use crate::timestamp::rfc3339;

/// How many due polls of each queue, and how many daily polls, are shown.
pub const MAX_SHOWN: usize = 20;

/// The polls that are due next, and the results of the daily polls.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ScheduleView {
    /// The next polls of each queue.
    pub due: Vec<DuePoll>,
    /// The last daily polls, the newest first.
    pub daily_polls: Vec<DailyPollView>,
    /// The end of the time for which Facebook's rate limit of the app blocks calls; null if it does
    /// not block them.
    pub rate_limited_until: Option<String>,
    /// The reason why no webhooks arrive; null if no problem is known.
    pub webhooks_problem: Option<String>,
}

/// A poll that is due.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DuePoll {
    /// The queue that the poll goes to.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// The subject of the poll, as `<kind>:<id>`.
    pub subject: String,
    /// Whether this version knows the kind of the subject. It does not poll an unknown one.
    pub is_known: bool,
    /// When it is due, on this host's clock.
    pub due_at: String,
}

/// The daily poll of one connection on one local day.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DailyPollView {
    /// The local day, as in `2026-11-22`.
    pub day: String,
    /// The app-scoped id of the person.
    #[schema(value_type = String)]
    pub connection_id: UserId,
    /// The result of the poll.
    pub result: DailyPollResult,
    /// When it was due.
    pub due_at: String,
    /// When it ended; null if it did not run.
    pub ended_at: Option<String>,
    /// How many Pages it read.
    pub pages: u64,
    /// How many result pages it requested.
    pub calls: u64,
}

/// Returns the schedule as it is at `now`.
pub async fn load_schedule(store: &dyn Store, now: HostTime) -> Result<ScheduleView, StoreError> {
    let mut due = Vec::new();
    for queue in QueueName::POLLS {
        let next = store.next_due(queue, MAX_SHOWN).await?;
        due.extend(next.iter().map(|entry| due_poll(queue, entry)));
    }
    let polls = load_all::<DailyPoll>(store, RecordKind::DailyPoll, "").await?;
    // The ids of the records begin with the day, so the last ones are the newest.
    let newest = polls.iter().rev().take(MAX_SHOWN);
    let limit = rate_limit::find(store, rate_limit::APP_BUCKET, now).await?;
    let app = load_record::<app::App>(store, &app::key()).await?;
    Ok(ScheduleView {
        due,
        daily_polls: newest
            .map(|(_, poll)| daily_poll_view(&poll.value))
            .collect(),
        rate_limited_until: (limit.blocked_until > now).then(|| rfc3339(limit.blocked_until)),
        webhooks_problem: app.and_then(|app| app.value.problem),
    })
}

/// Returns a poll that is due.
fn due_poll(queue: QueueName, entry: &DueEntry) -> DuePoll {
    DuePoll {
        queue,
        subject: entry.text.clone(),
        is_known: entry.subject.is_some(),
        due_at: rfc3339(entry.due_at),
    }
}

/// Returns a daily poll.
fn daily_poll_view(poll: &DailyPoll) -> DailyPollView {
    DailyPollView {
        day: poll.day.clone(),
        connection_id: poll.connection.clone(),
        result: poll.result,
        due_at: rfc3339(poll.slot),
        ended_at: poll.ended_at.map(rfc3339),
        pages: poll.pages,
        calls: poll.calls,
    }
}
