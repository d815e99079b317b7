//! What can go wrong with a queue.

use model::queue_name::QueueName;

/// Why the queue did not do something. Whatever the reason, nothing acknowledged is lost, and a
/// publish may be repeated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The queue cannot be reached, is blocked, or did not answer in time.
    #[error("the queue is not available: {0}")]
    Unavailable(String),
    /// The queue holds as many bytes as it may.
    #[error("the queue {0} is full")]
    Full(QueueName),
    /// The delivery was given back meanwhile; it will be delivered again.
    #[error("the delivery was given back before it was acknowledged")]
    Lost,
    /// The queue exists with other settings than this build declares. Nothing was changed.
    #[error("the queue was declared differently: {0}")]
    Mismatch(String),
}
