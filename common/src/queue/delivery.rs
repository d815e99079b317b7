//! Deliveries: messages that were received and not acknowledged yet.

use model::job::Job;

use super::embedded::receipt::Receipt as EmbeddedReceipt;
use super::error::QueueError;
use super::rabbitmq::receipt::Receipt as RabbitMqReceipt;

/// A message in hand. Dropped without [`Self::ack`], it is delivered again.
#[derive(Debug)]
#[must_use = "a delivery that is dropped is delivered again"]
pub struct Delivery {
    /// What it carries.
    pub jobs: Vec<Job>,
    /// How often it was delivered, this time included: from 1.
    pub attempt: u32,
    pub(super) receipt: Receipt,
}

/// The right to acknowledge a delivery, on the backend it came from.
#[derive(Debug)]
pub(super) enum Receipt {
    RabbitMq(RabbitMqReceipt),
    Embedded(EmbeddedReceipt),
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
