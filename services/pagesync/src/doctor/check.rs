//! A check of `doctor` and its result.

use std::fmt;

use serde::Serialize;

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
    pub(super) fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    pub(super) fn bad(
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

    pub(super) fn skipped(check: &'static str, why: &str) -> Self {
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
pub struct ChecksFailed(pub usize);

impl fmt::Display for ChecksFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks failed", self.0)
    }
}

impl std::error::Error for ChecksFailed {}
