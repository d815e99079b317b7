//! `pagesync schedule`: prints the next due polls and the results of the daily polls.

use common::clock::Clock;
use common::config::Config;
use common::records::daily_poll::DailyPoll;
use common::records::{app, load_all, load_record, rate_limit};
use common::store::{RecordKind, Store};
use common::timestamp::rfc3339;
use common::views::schedule::{DailyPollView, DuePoll, ScheduleView, daily_poll_view, due_poll};
use model::queue_name::QueueName;

use crate::output::{self, Format, escape_control, table, to_json};

/// How many due polls of each queue, and how many daily polls, are shown.
const MAX_SHOWN: usize = 20;

/// Prints the schedule.
pub async fn run(config: &Config, store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let schedule = load(store).await?;
    let today = config.daily_schedule.local_day(Clock::system().now());
    let text = || text(&schedule, &today);
    output::print(&output::format_object(format, &to_json(&schedule), text))
}

async fn load(store: &dyn Store) -> anyhow::Result<ScheduleView> {
    let mut due = Vec::new();
    for queue in QueueName::POLLS {
        let next = store.next_due(queue, MAX_SHOWN).await?;
        due.extend(next.iter().map(|entry| due_poll(queue, entry)));
    }
    let polls = load_all::<DailyPoll>(store, RecordKind::DailyPoll, "").await?;
    // The ids of the records begin with the day, so the last ones are the newest.
    let newest = polls.iter().rev().take(MAX_SHOWN);
    let now = Clock::system().now();
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

fn text(schedule: &ScheduleView, today: &str) -> String {
    let due_cells = |poll: &DuePoll| {
        vec![
            poll.queue.to_string(),
            if poll.is_known {
                poll.subject.clone()
            } else {
                let subject = escape_control(&poll.subject);
                format!("{subject} (unknown to this version)")
            },
            poll.due_at.clone(),
        ]
    };
    let daily_cells = |poll: &DailyPollView| {
        vec![
            poll.day.clone(),
            poll.connection_id.to_string(),
            poll.result.name().to_owned(),
            poll.pages.to_string(),
            poll.calls.to_string(),
            poll.ended_at.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let due = table(
        &["queue", "subject", "due at"],
        schedule.due.iter().map(due_cells),
    );
    let daily = table(
        &["day", "connection", "result", "Pages", "calls", "ended at"],
        schedule.daily_polls.iter().map(daily_cells),
    );
    let limit = schedule
        .rate_limited_until
        .as_ref()
        .map_or_else(String::new, |until| {
            format!(
                "Facebook's rate limit blocks calls until {until}. No poll is published until then.\n"
            )
        });
    let problem = schedule.webhooks_problem.as_ref();
    let problem = problem.map_or_else(String::new, |problem| {
        format!("No webhooks arrive: {}\n", escape_control(problem))
    });
    format!(
        "{limit}{problem}Due next (the first {MAX_SHOWN} of each queue; today is {today})\n{due}\n\nDaily polls, the newest first\n{daily}"
    )
}
