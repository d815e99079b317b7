//! The queues of the queue. Invariant: a queue's name is what queues, keys and metrics call it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A separate line of work. A flood in one does not delay the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueName {
    /// What Facebook signed.
    Webhooks,
    /// Reads somebody waits for.
    PollsNow,
    /// The daily reads.
    PollsDaily,
}

impl QueueName {
    /// Every queue.
    pub const ALL: [Self; 3] = [Self::Webhooks, Self::PollsNow, Self::PollsDaily];

    /// Its name in queues, keys and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhooks => "webhooks",
            Self::PollsNow => "polls_now",
            Self::PollsDaily => "polls_daily",
        }
    }

    /// The queue of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|queue_name| queue_name.as_str() == name)
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
