//! The names of the job queues.
//!
//! Invariant: RabbitMQ, the keys of the store and the metrics all use the same name for a queue.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a job queue. A flood of jobs in one queue does not delay the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueName {
    /// Requests that Facebook signed: webhooks and erasure requests.
    Webhooks,
    /// Polls for which a person waits who has just logged in.
    Logins,
    /// Polls that a notification or a request made due.
    PollsNow,
    /// Daily polls.
    PollsDaily,
    /// Deliveries of Facebook that are forwarded to another program.
    Forwards,
}

impl QueueName {
    /// Every queue.
    pub const ALL: [Self; 5] = [
        Self::Webhooks,
        Self::Logins,
        Self::PollsNow,
        Self::PollsDaily,
        Self::Forwards,
    ];
    /// The queues of polls, in the order in which the scheduler fills them.
    pub const POLLS: [Self; 3] = [Self::Logins, Self::PollsNow, Self::PollsDaily];

    /// Returns the name as it appears in RabbitMQ, in keys and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhooks => "webhooks",
            Self::Logins => "logins",
            Self::PollsNow => "polls_now",
            Self::PollsDaily => "polls_daily",
            Self::Forwards => "forwards",
        }
    }

    /// Returns the queue with this name, or `None` if there is none.
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
