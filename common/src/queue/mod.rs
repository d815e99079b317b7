//! The queue between the services: the trait, what travels, what can go wrong.
//!
//! Two backends, one meaning: [`rabbitmq`] and [`embedded`]. `tests/it/queue.rs` of the executable
//! holds the conformance suite that both pass.

pub mod delivery;
pub mod embedded;
pub mod error;
pub mod messages;
pub mod rabbitmq;

use std::time::Duration;

use async_trait::async_trait;
use model::job::Job;
use model::queue_name::QueueName;

use delivery::Delivery;
use error::QueueError;

/// A publish is answered within this, on every backend.
pub const PUBLISH_DEADLINE: Duration = Duration::from_millis(3500);

/// Durable queues of jobs, each delivered at least once, in no promised order.
#[async_trait]
pub trait Queue: Send + Sync + std::fmt::Debug {
    /// Makes jobs durable. `Ok`: all of them are on disk. `Err`: some may be; publish again.
    /// Answers within [`PUBLISH_DEADLINE`] on every backend.
    async fn publish(&self, queue_name: QueueName, jobs: &[Job]) -> Result<(), QueueError>;

    /// Waits for the next message of a queue. Cancel-safe: a message is never lost by dropping the
    /// future. An error means the queue cannot be reached now; call again after a pause.
    async fn receive(&self, queue_name: QueueName) -> Result<Delivery, QueueError>;

    /// Gives back everything received from a queue and not acknowledged; it is delivered again, with
    /// its attempt one higher. Acknowledging what was given back fails with [`QueueError::Lost`].
    async fn requeue(&self, queue_name: QueueName) -> Result<(), QueueError>;

    /// How much waits in a queue.
    async fn depth(&self, queue_name: QueueName) -> Result<Depth, QueueError>;

    /// Whether a publish would be tried now. Asking begins to make it so.
    fn is_ready(&self) -> bool;
}

/// What waits in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Messages that nobody works on.
    pub messages: u64,
}
