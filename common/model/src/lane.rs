//! The lanes of the queue. Invariant: a lane's name is what queues, keys and metrics call it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A separate line of work. A flood in one does not delay the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// What Facebook signed.
    Webhooks,
    /// Reads somebody waits for.
    PollsNow,
    /// The daily reads.
    PollsDaily,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 3] = [Self::Webhooks, Self::PollsNow, Self::PollsDaily];

    /// Its name in queues, keys and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Webhooks => "webhooks",
            Self::PollsNow => "polls_now",
            Self::PollsDaily => "polls_daily",
        }
    }

    /// The lane of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.name() == name)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
