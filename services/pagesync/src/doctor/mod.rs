//! `pagesync doctor`: checks a deployment, and prints one line for each check and one for each fix.
//!
//! Invariant: it changes nothing, except that the check of the store writes a record, that the queues are
//! declared as every process declares them, and that the check of forwarding sends a probe. The exit code is 3 if a check failed; a
//! warning is not a failure.

pub mod check;
mod facebook;
mod forwarding;
mod local;
mod records;

use std::fmt::Write as _;

use common::clock::Clock;
use common::config::backend::Backend;
use common::config::problem::Problems;
use common::config::settings::Environment;
use common::config::{Config, Role};
use common::telemetry::init_logs;
use serde_json::json;

use crate::output::{self, Format};
use check::ChecksFailed;
use common::views::check::{Check, State};

/// Runs every check that is possible on this host, and prints the results. Fails with
/// [`ChecksFailed`] if a check failed.
pub async fn run(environment: &Environment, format: Format) -> anyhow::Result<()> {
    init_logs("off", common::config::LogFormat::Text);
    let checks = match Config::read(environment, Role::Command) {
        Err(problems) => configuration_problems(&problems),
        Ok(command) => {
            let is_distributed = command.backend == Backend::Distributed;
            // The roles of this host need more settings than a command does.
            let roles: &[Role] = match (
                is_distributed,
                &command.token_private_keys,
                &command.token_public_key,
            ) {
                (false, _, _) => &[Role::Up],
                (true, Some(_), _) => &[Role::Worker],
                (true, None, Some(_)) => &[Role::Ingress],
                (true, None, None) => &[Role::Command],
            };
            let configs = roles.iter().map(|role| Config::read(environment, *role));
            match configs.collect::<Result<Vec<Config>, Problems>>() {
                Err(problems) => configuration_problems(&problems),
                Ok(configs) => match configs.into_iter().next() {
                    Some(config) => checks(&config).await,
                    None => Vec::new(),
                },
            }
        }
    };
    print(&checks, format)?;
    let failed = checks.iter().filter(|check| check.state == State::Failed);
    match failed.count() {
        0 => Ok(()),
        failed => Err(ChecksFailed(failed).into()),
    }
}

fn configuration_problems(problems: &Problems) -> Vec<Check> {
    let check = |problem: &common::config::problem::Problem| {
        let detail = format!("{} {}", problem.setting, problem.problem);
        Check::problem("configuration", State::Failed, detail, &problem.remedy)
    };
    problems.0.iter().map(check).collect()
}

/// Makes every check that is possible with this configuration.
pub async fn checks(config: &Config) -> Vec<Check> {
    let clock = Clock::system();
    let mut checks = vec![Check::ok(
        "configuration",
        format!("{:?} backend", config.backend).to_lowercase(),
    )];
    local::run_checks(config, &clock, &mut checks).await;
    facebook::run_checks(config, &clock, &mut checks).await;
    forwarding::run_checks(config, &clock, &mut checks).await;
    records::run_checks(config, &clock, &mut checks).await;
    fail_if_nothing_runs(&mut checks);
    checks
}

/// Turns the check of the process into a failure if neither the process nor the public address
/// answers. If only one of them answers, the other may run but be unreachable from this host.
fn fail_if_nothing_runs(checks: &mut [Check]) {
    let does_not_answer = |name| {
        let mut found = checks.iter().filter(move |check| check.check == name);
        found.any(|check| check.state == State::Warning)
    };
    if does_not_answer(local::PROCESS_CHECK) && does_not_answer(facebook::ADDRESS_CHECK) {
        let process = checks
            .iter_mut()
            .filter(|check| check.check == local::PROCESS_CHECK);
        for check in process {
            let fix =
                "start it (`pagesync up`); if it runs on another host, run this command there";
            (check.state, check.fix) = (State::Failed, Some(fix.to_owned()));
        }
    }
}

fn print(checks: &[Check], format: Format) -> anyhow::Result<()> {
    if format == Format::Ndjson {
        let lines: Vec<String> = checks
            .iter()
            .map(|check| json!(check).to_string())
            .collect();
        return output::print(&lines.join("\n"));
    }
    if format == Format::Csv {
        let row = |check: &Check| output::Row::new(Vec::new(), check);
        let rows: Vec<output::Row> = checks.iter().map(row).collect();
        return output::print(&output::listing(format, &[], &rows));
    }
    output::print(&output::format_object(format, &json!(checks), || {
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
