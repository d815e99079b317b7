//! Deliveries: messages that have been received and are not acknowledged yet.

use model::job::Job;

use super::embedded::ack_handle::AckHandle as EmbeddedAckHandle;
use super::error::QueueError;
use super::rabbitmq::ack_handle::AckHandle as RabbitMqAckHandle;

/// A received message. If it is dropped without [`Self::ack`], it is delivered again.
#[derive(Debug)]
#[must_use = "a delivery that is dropped is delivered again"]
pub struct Delivery {
    /// The jobs of the message.
    pub jobs: Vec<Job>,
    /// How often the message was delivered, including this time. The first delivery has 1.
    pub attempt: u32,
    pub(super) ack_handle: AckHandle,
}

/// The handle that acknowledges a delivery on its backend.
#[derive(Debug)]
pub(super) enum AckHandle {
    RabbitMq(RabbitMqAckHandle),
    Embedded(EmbeddedAckHandle),
}

impl Delivery {
    /// Acknowledges the message, which deletes it from the queue. The caller must have made the
    /// effects of all jobs durable. Fails with [`QueueError::Requeued`] if the message has been
    /// requeued.
    pub async fn ack(self) -> Result<(), QueueError> {
        match self.ack_handle {
            AckHandle::RabbitMq(handle) => handle.ack().await,
            AckHandle::Embedded(handle) => handle.ack().await,
        }
    }
}
