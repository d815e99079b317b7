//! `pagesync schedule`: prints the next due polls and the results of the daily polls.

use common::clock::Clock;
use common::config::Config;
use common::store::Store;
use common::views::schedule::{DailyPollView, DuePoll, MAX_SHOWN, ScheduleView, load_schedule};

use crate::output::{self, Format, escape_control, table, to_json};

/// Prints the schedule.
pub async fn run(config: &Config, store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let schedule = load_schedule(store, now).await?;
    let today = config.daily_schedule.local_day(now);
    let text = || text(&schedule, &today);
    output::print(&output::format_object(format, &to_json(&schedule), text))
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
