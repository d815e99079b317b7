//! The queue between the services: the trait, what travels, what can go wrong.
//!
//! Two backends, one meaning: [`rabbitmq`] and [`embedded`]. `tests/it/queue.rs` of the executable
//! holds the conformance suite that both pass.

pub mod embedded;
pub mod rabbitmq;

use async_trait::async_trait;
use model::job::{Job, encode};
use model::lane::Lane;

/// Most jobs in one message.
pub const MAX_JOBS: usize = 256;
/// Most bytes in one message, unless a single job is longer.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Why the queue did not do something. Whatever the reason, nothing acknowledged is lost, and a
/// publish may be repeated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The queue cannot be reached, is blocked, or did not answer in time.
    #[error("the queue is not available: {0}")]
    Unavailable(String),
    /// The lane holds as many bytes as it may.
    #[error("the lane {0} is full")]
    Full(Lane),
    /// The delivery was given back meanwhile; it will be delivered again.
    #[error("the delivery was given back before it was acknowledged")]
    Lost,
    /// The queue exists with other settings than this build declares. Nothing was changed.
    #[error("the queue was declared differently: {0}")]
    Mismatch(String),
}

/// Durable lanes of jobs, each delivered at least once, in no promised order.
#[async_trait]
pub trait Queue: Send + Sync + std::fmt::Debug {
    /// Makes jobs durable. `Ok`: all of them are on disk. `Err`: some may be; publish again.
    /// Answers within [`rabbitmq::PUBLISH_DEADLINE`] on every backend.
    async fn publish(&self, lane: Lane, jobs: &[Job]) -> Result<(), QueueError>;

    /// Waits for the next message of a lane. Cancel-safe: a message is never lost by dropping the
    /// future. An error means the queue cannot be reached now; call again after a pause.
    async fn receive(&self, lane: Lane) -> Result<Delivery, QueueError>;

    /// Gives back everything received from a lane and not acknowledged; it is delivered again, with
    /// its attempt one higher. Acknowledging what was given back fails with [`QueueError::Lost`].
    async fn release(&self, lane: Lane) -> Result<(), QueueError>;

    /// How much waits in a lane.
    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError>;

    /// Whether a publish would be tried now. Asking begins to make it so.
    fn is_ready(&self) -> bool;
}

/// What waits in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Messages that nobody works on.
    pub messages: u64,
}

/// A message in hand. Dropped without [`Self::ack`], it is delivered again.
#[derive(Debug)]
#[must_use = "a delivery that is dropped is delivered again"]
pub struct Delivery {
    /// What it carries.
    pub jobs: Vec<Job>,
    /// How often it was delivered, this time included: from 1.
    pub attempt: u32,
    receipt: Receipt,
}

#[derive(Debug)]
enum Receipt {
    RabbitMq(rabbitmq::Receipt),
    Embedded(embedded::Receipt),
}

impl Delivery {
    /// All its work is durable elsewhere: the queue may forget it.
    pub async fn ack(self) -> Result<(), QueueError> {
        match self.receipt {
            Receipt::RabbitMq(receipt) => receipt.ack().await,
            Receipt::Embedded(receipt) => receipt.ack().await,
        }
    }
}

/// Encodes jobs and splits them into the groups that may share a message of this lane. Polls travel
/// alone so that workers share them.
fn groups(lane: Lane, jobs: &[Job]) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut bytes = 0;
    for encoded in jobs.iter().map(encode) {
        let fits = |group: &Vec<String>| {
            lane == Lane::Webhooks && group.len() < MAX_JOBS && bytes + encoded.len() <= MAX_BYTES
        };
        if let Some(group) = groups.last_mut().filter(|group| fits(group)) {
            bytes += encoded.len();
            group.push(encoded);
        } else {
            bytes = encoded.len();
            groups.push(vec![encoded]);
        }
    }
    groups
}
