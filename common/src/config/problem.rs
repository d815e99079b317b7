//! The report of all problems of a configuration.

use std::fmt;

/// One invalid or missing setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The environment variable.
    pub setting: String,
    /// The problem, as a predicate of the setting. It never contains the value.
    pub problem: String,
    /// The fix.
    pub remedy: String,
}

/// Every problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} problem(s):", self.0.len())?;
        for Problem {
            setting,
            problem,
            remedy,
        } in &self.0
        {
            writeln!(f, "  {setting} {problem}\n      {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
