//! The errors of a queue.

use model::queue_name::QueueName;

/// The reason why an operation of a queue failed. No error loses a job whose publish succeeded, and
/// a failed publish can be repeated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The queue cannot be reached, blocks publishers, or did not answer in time.
    #[error("the queue is not available: {0}")]
    Unavailable(String),
    /// The broker blocks publishers.
    #[error("the broker blocks publishers because it is low on memory or disk")]
    Blocked,
    /// The queue has reached its maximum size in bytes.
    #[error("the queue {0} is full")]
    Full(QueueName),
    /// The delivery was requeued before it was acknowledged. It is delivered again.
    #[error("the delivery was requeued before it was acknowledged")]
    Requeued,
    /// No further message is delivered, because the caller has stopped the deliveries.
    #[error("the deliveries of the queue were stopped")]
    Stopped,
    /// An AMQP queue exists with other arguments than this build declares. It was not changed.
    #[error("a queue exists with other arguments: {0}")]
    Mismatch(String),
}
