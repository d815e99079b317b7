//! `pagesync schedule`: what is due next, and how the daily polls went.

use common::config::Config;
use common::pages::rfc3339;
use common::records::run::Run;
use common::records::{all, app, get, throttle};
use common::store::{Kind, Store, Versioned};
use model::lane::Lane;
use serde_json::{Value as Json, json};

use crate::output::{self, Format};

/// Subjects shown of each lane, and rows of the ledger.
const SHOWN: usize = 20;

/// Shows it.
pub async fn run(config: &Config, store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let mut due = Vec::new();
    for lane in [Lane::PollsNow, Lane::PollsDaily] {
        for (subject, at) in store.due(lane, SHOWN).await? {
            due.push((lane, subject, at));
        }
    }
    let mut runs: Vec<Run> = all::<Run>(store, Kind::Run, "")
        .await?
        .into_iter()
        .map(|(_, Versioned { value, .. })| value)
        .collect();
    // Their ids begin with the day.
    runs.reverse();
    runs.truncate(SHOWN);
    let limits = throttle::find(store, throttle::APP).await?;
    let now = common::clock::Clock::system().now();
    let own = get::<app::App>(store, &app::key())
        .await?
        .map(|held| held.value)
        .unwrap_or_default();
    let json = json!({
        "webhooks_problem": own.problem,
        "due": due.iter().map(|(lane, subject, at)| json!({"lane": lane, "subject": subject, "at": rfc3339(*at)})).collect::<Vec<_>>(),
        "runs": runs.iter().map(row).collect::<Vec<_>>(),
        "closed_until": (limits.closed_until.0 > 0).then(|| rfc3339(limits.closed_until)),
    });
    output::print(&output::one(format, &json, || {
        let due = output::table(
            &["lane", "subject", "due at"],
            due.iter().map(|(lane, subject, at)| {
                vec![lane.to_string(), subject.to_string(), rfc3339(*at)]
            }),
        );
        let runs = output::table(
            &["day", "connection", "result", "pages", "calls", "ended at"],
            runs.iter().map(|run| {
                vec![
                    run.day.clone(),
                    run.connection.to_string(),
                    run.result.name().to_owned(),
                    run.pages.to_string(),
                    run.calls.to_string(),
                    run.ended.map_or("-".to_owned(), rfc3339),
                ]
            }),
        );
        let slot = config.days.day(now);
        let limited = limits.closed_until > now;
        let until = rfc3339(limits.closed_until);
        let limit = if limited {
            format!("Facebook limits calls until {until}: nothing is published before.\n")
        } else {
            String::new()
        };
        let problem = own.problem.as_ref();
        let trouble = problem.map_or_else(String::new, |problem| {
            format!("No webhooks: {}\n", output::harmless(problem))
        });
        format!(
            "{limit}{trouble}Due next (the first {SHOWN} of each lane; local day {slot})\n{due}\n\nDaily polls, newest first\n{runs}"
        )
    }))
}

fn row(run: &Run) -> Json {
    json!({
        "day": run.day,
        "connection": run.connection,
        "result": run.result.name(),
        "slot": rfc3339(run.slot),
        "ended": run.ended.map(rfc3339),
        "pages": run.pages,
        "calls": run.calls,
    })
}
