//! `pagesync doctor`: one line per check, and one line that says what to do if it is not well.
//!
//! Invariant: it changes nothing but the record with which the store proves that it can be written, and
//! declares the queues that are there anyway. Exit code 3 if a check failed; a warning is no failure.

pub mod check;
mod facebook;
mod local;
mod people;

use std::fmt::Write as _;

use common::clock::Clock;
use common::config::backend::Backend;
use common::config::problem::Problems;
use common::config::settings::Environment;
use common::config::{Config, Role};
use common::telemetry::init_logs;
use serde_json::json;

use crate::output::{self, Format};
use check::{Check, ChecksFailed, State};

/// Checks everything that can be seen from here.
pub async fn run(environment: &Environment, format: Format) -> anyhow::Result<()> {
    init_logs("off", common::config::LogFormat::Text);
    let checks = match Config::read(environment, Role::Command) {
        Err(problems) => misconfigured(&problems),
        Ok(command) => {
            let distributed = command.backend == Backend::Distributed;
            // What the roles here need, not only what a command needs.
            let roles: &[Role] = match (
                distributed,
                &command.token_private_keys,
                &command.token_public_key,
            ) {
                (false, _, _) => &[Role::Up],
                (true, Some(_), _) => &[Role::Worker],
                (true, None, Some(_)) => &[Role::Ingress],
                (true, None, None) => &[Role::Command],
            };
            let read = roles.iter().map(|role| Config::read(environment, *role));
            match read.collect::<Result<Vec<Config>, Problems>>() {
                Err(problems) => misconfigured(&problems),
                Ok(read) => match read.into_iter().next() {
                    Some(config) => look(&config).await,
                    None => Vec::new(),
                },
            }
        }
    };
    show(&checks, format)?;
    let failed = checks.iter().filter(|check| check.state == State::Failed);
    match failed.count() {
        0 => Ok(()),
        failed => Err(ChecksFailed(failed).into()),
    }
}

fn misconfigured(problems: &Problems) -> Vec<Check> {
    let check = |problem: &common::config::problem::Problem| {
        let what = format!("{} {}", problem.setting, problem.problem);
        Check::bad("configuration", State::Failed, what, &problem.remedy)
    };
    problems.0.iter().map(check).collect()
}

async fn look(config: &Config) -> Vec<Check> {
    let clock = Clock::system();
    let mut checks = vec![Check::ok(
        "configuration",
        format!("{:?} backend", config.backend).to_lowercase(),
    )];
    local::look(config, &clock, &mut checks).await;
    facebook::look(config, &clock, &mut checks).await;
    people::look(config, &clock, &mut checks).await;
    nobody_there(&mut checks);
    checks
}

/// Either silence may be only the view from here; where both are silent, nothing runs.
fn nobody_there(checks: &mut [Check]) {
    let silent = |name| {
        let mut found = checks.iter().filter(move |check| check.check == name);
        found.any(|check| check.state == State::Warning)
    };
    if silent(local::PROCESS) && silent(facebook::ADDRESS) {
        let process = checks
            .iter_mut()
            .filter(|check| check.check == local::PROCESS);
        for check in process {
            let fix = "start it (`pagesync up`); if it runs elsewhere, run this there";
            (check.state, check.fix) = (State::Failed, Some(fix.to_owned()));
        }
    }
}

fn show(checks: &[Check], format: Format) -> anyhow::Result<()> {
    if format == Format::Ndjson {
        let lines: Vec<String> = checks
            .iter()
            .map(|check| json!(check).to_string())
            .collect();
        return output::print(&lines.join("\n"));
    }
    output::print(&output::one(format, &json!(checks), || {
        let mut text = String::new();
        for check in checks {
            let state = match check.state {
                State::Ok => "ok     ",
                State::Warning => "WARNING",
                State::Failed => "FAILED ",
                State::Skipped => "skipped",
            };
            let detail = output::escape_control(&check.detail);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{state}  {}: {detail}", check.check);
            if let Some(fix) = &check.fix {
                let _ = writeln!(text, "         fix: {}", output::escape_control(fix));
            }
        }
        text
    }))
}
