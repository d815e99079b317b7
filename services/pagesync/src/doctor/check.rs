//! A check of `pagesync doctor` and its result.

use std::fmt;

use serde::Serialize;

/// The state that a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It works.
    Ok,
    /// It works only in part, or will stop to work.
    Warning,
    /// It does not work.
    Failed,
    /// It cannot be checked on this host.
    Skipped,
}

/// The result of a check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was checked.
    pub check: &'static str,
    /// The state that was found.
    pub state: State,
    /// What was found, in words.
    pub detail: String,
    /// What to do about it; `None` if nothing.
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

/// So many checks failed. The exit code is 3.
#[derive(Debug)]
pub struct ChecksFailed(pub usize);

impl fmt::Display for ChecksFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks failed", self.0)
    }
}

impl std::error::Error for ChecksFailed {}
