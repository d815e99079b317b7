//! The failure of `pagesync doctor`.

use std::fmt;

/// The error of `doctor` if checks failed. It contains their number; the exit code is then 3.
#[derive(Debug)]
pub struct ChecksFailed(pub usize);

impl fmt::Display for ChecksFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks failed", self.0)
    }
}

impl std::error::Error for ChecksFailed {}
