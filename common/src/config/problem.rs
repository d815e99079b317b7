//! What can be wrong with a configuration.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable.
    pub setting: String,
    /// What is wrong with it; never its value.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

/// All that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} problem(s):", self.0.len())?;
        for Problem {
            setting: key,
            problem: what,
            remedy,
        } in &self.0
        {
            writeln!(f, "  {key} {what}\n      {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
