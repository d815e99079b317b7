//! The right to acknowledge a message of RabbitMQ.

use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicRejectOptions};

use super::deadline::bounded;
use crate::queue::error::QueueError;

/// The right to acknowledge one message.
#[derive(Debug)]
pub(in crate::queue) struct Receipt {
    pub(super) acker: Option<Acker>,
}

impl Receipt {
    pub(in crate::queue) async fn ack(mut self) -> Result<(), QueueError> {
        let Some(acker) = self.acker.take() else {
            return Err(QueueError::Lost);
        };
        match bounded(acker.ack(BasicAckOptions::default())).await? {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(QueueError::Lost),
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let Some(acker) = self.acker.take().filter(Acker::usable) else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // If this fails the channel is gone, and the broker has given the message back.
                let _ = bounded(acker.reject(BasicRejectOptions { requeue: true })).await;
            });
        }
    }
}
