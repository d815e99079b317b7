//! `pagesync doctor`: one line per check, and one line that says what to do if it is not well.
//!
//! Invariant: it changes nothing but the record with which the store proves that it can be written, and
//! declares the queues that are there anyway. Exit code 3 if a check failed; a warning is no failure.

mod facebook;
mod local;
mod people;

use std::fmt::{self, Write as _};

use common::clock::Clock;
use common::config::{Backend, Config, Environment, Problems, Role};
use common::telemetry::init_logs;
use serde::Serialize;
use serde_json::json;

use crate::output::{self, Format};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Well.
    Ok,
    /// Works, and will not for ever or not for everything.
    Warning,
    /// Does not work.
    Failed,
    /// Could not be looked at from here.
    Skipped,
}

/// A check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What to do; null if nothing.
    pub fix: Option<String>,
}

impl Check {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    fn bad(check: &'static str, state: State, detail: impl Into<String>, fix: &str) -> Self {
        Self {
            check,
            state,
            detail: detail.into(),
            fix: Some(fix.to_owned()),
        }
    }

    fn skipped(check: &'static str, why: &str) -> Self {
        Self {
            check,
            state: State::Skipped,
            detail: why.to_owned(),
            fix: None,
        }
    }
}

/// Some checks failed: exit code 3.
#[derive(Debug)]
pub struct ChecksFailed(usize);

impl fmt::Display for ChecksFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks failed", self.0)
    }
}

impl std::error::Error for ChecksFailed {}

/// Checks everything that can be seen from here.
pub async fn run(environment: &Environment, format: Format) -> anyhow::Result<()> {
    init_logs("off", common::config::LogFormat::Text);
    let checks = match Config::read(environment, Role::Command) {
        Err(problems) => misconfigured(&problems),
        Ok(command) => {
            let distributed = command.backend == Backend::Distributed;
            // What the roles here need, not only what a command needs.
            let roles: &[Role] = match (distributed, &command.token_keys, &command.token_public) {
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
    let check = |problem: &common::config::Problem| {
        let what = format!("{} {}", problem.key, problem.what);
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
            let detail = output::harmless(&check.detail);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{state}  {}: {detail}", check.check);
            if let Some(fix) = &check.fix {
                let _ = writeln!(text, "         fix: {}", output::harmless(fix));
            }
        }
        text
    }))
}
