//! The JSON of a check of `pagesync doctor`.

use serde::Serialize;
use utoipa::ToSchema;

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CheckState)]
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
#[derive(Debug, Clone, Serialize, ToSchema)]
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
    /// Returns the result of a check that found no problem.
    pub fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    /// Returns the result of a check that found a problem, with the way to fix it.
    pub fn problem(
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

    /// Returns the result of a check that is not possible here.
    pub fn skipped(check: &'static str, reason: &str) -> Self {
        Self {
            check,
            state: State::Skipped,
            detail: reason.to_owned(),
            fix: None,
        }
    }
}
