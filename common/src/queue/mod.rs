//! The job queues between the services: the trait [`Queue`] and its two backends, [`rabbitmq`] and
//! [`embedded`].
//!
//! Invariant: a job whose publish succeeded is durable, and it is delivered again until its message
//! is acknowledged. `services/pagesync/tests/it/queue.rs` is the conformance suite of both
//! backends.

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

/// How many messages of webhooks a worker handles at a time. Several of them let the store group
/// its writes.
const WEBHOOK_CONCURRENCY: u16 = 16;

/// How many messages of deliveries a worker forwards at a time.
pub const FORWARD_CONCURRENCY: u16 = 64;

/// Returns how many messages of a queue a worker handles at a time. `poll_concurrency` is how many
/// polls of each queue it makes at a time.
pub fn concurrency(queue_name: QueueName, poll_concurrency: u16) -> u16 {
    match queue_name {
        QueueName::Webhooks => WEBHOOK_CONCURRENCY,
        QueueName::Logins | QueueName::PollsNow | QueueName::PollsDaily => poll_concurrency,
        QueueName::Forwards => FORWARD_CONCURRENCY,
    }
}

/// The longest time that a publish takes, on every backend.
pub const PUBLISH_DEADLINE: Duration = Duration::from_millis(3500);

/// Durable queues of jobs. Each job is delivered at least once, in no particular order.
#[async_trait]
pub trait Queue: Send + Sync + std::fmt::Debug {
    /// Publishes jobs. `Ok` means that all of them are on disk. After an error, some of them may be
    /// on disk, and the caller can publish all of them again. Returns within [`PUBLISH_DEADLINE`].
    async fn publish(&self, queue_name: QueueName, jobs: &[Job]) -> Result<(), QueueError>;

    /// Waits for the next delivery of a queue. This method is cancel safe: dropping the future
    /// loses no message. Fails if the queue cannot be reached; the caller can try again after a
    /// delay.
    async fn receive(&self, queue_name: QueueName) -> Result<Delivery, QueueError>;

    /// Starts the delivery of messages again after [`Self::stop_receiving`].
    fn start_receiving(&self);

    /// Ends the delivery of further messages. What was delivered already is still received and can be
    /// acknowledged; then [`Self::receive`] fails with [`QueueError::Stopped`].
    fn stop_receiving(&self);

    /// Requeues all unacknowledged deliveries of a queue. They are delivered again, with an attempt
    /// one higher. Acknowledging a requeued delivery fails with [`QueueError::Requeued`].
    async fn requeue(&self, queue_name: QueueName) -> Result<(), QueueError>;

    /// Returns how many messages wait in a queue, and how many workers receive from it. RabbitMQ
    /// reports 0 messages if the leader of the queue does not answer it within 250 ms.
    async fn depth(&self, queue_name: QueueName) -> Result<Depth, QueueError>;

    /// Checks that the queue accepts messages. Fails if it cannot be reached or blocks publishers.
    /// Nothing is published to a queue of jobs.
    async fn check(&self) -> Result<(), QueueError>;

    /// Returns whether a publish would be attempted now. On RabbitMQ, the first call also starts
    /// the connection for publishing.
    fn is_ready(&self) -> bool;
}

/// The size of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// The number of messages that are ready to be delivered, without unacknowledged deliveries.
    pub messages: u64,
    /// The number of workers that receive from the queue.
    pub consumers: u64,
}
