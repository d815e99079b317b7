//! A check of `pagesync doctor` and its result.

use std::fmt;

use serde::Serialize;

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// What was checked works.
    Ok,
    /// What was checked works partly, or will stop working.
    Warning,
    /// What was checked does not work.
    Failed,
    /// The check is not possible on this host.
    Skipped,
}

/// The result of a check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// The name of the check.
    pub check: &'static str,
    /// The outcome.
    pub state: State,
    /// The finding, in words.
    pub detail: String,
    /// The way to fix the problem; `None` if there is none.
    pub fix: Option<String>,
}

impl Check {
    pub(super) fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    pub(super) fn problem(
        check: &'static str,
        state: State,
        detail: impl Into<String>,
        fix: &str,
    ) -> Self {
        Self {
            check,
            state,
            detail: detail.into(),
            fix: Some(fix.to_owned()),
        }
    }

    pub(super) fn skipped(check: &'static str, reason: &str) -> Self {
        Self {
            check,
            state: State::Skipped,
            detail: reason.to_owned(),
            fix: None,
        }
    }
}

/// The error of `doctor` if checks failed. It contains their number; the exit code is then 3.
#[derive(Debug)]
pub struct ChecksFailed(pub usize);

impl fmt::Display for ChecksFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks failed", self.0)
    }
}

impl std::error::Error for ChecksFailed {}
