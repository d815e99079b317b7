//! The acknowledgement of a message of RabbitMQ.

use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicRejectOptions};

use super::deadline::with_timeout;
use crate::queue::error::QueueError;

/// The handle that acknowledges one message. Dropping it requeues the message.
#[derive(Debug)]
pub(in crate::queue) struct AckHandle {
    pub(super) acker: Option<Acker>,
}

impl AckHandle {
    pub(in crate::queue) async fn ack(mut self) -> Result<(), QueueError> {
        let Some(acker) = self.acker.take() else {
            return Err(QueueError::Requeued);
        };
        match with_timeout(acker.ack(BasicAckOptions::default())).await? {
            Ok(true) => Ok(()),
            // `false` means that lapin did not send the acknowledgement.
            Ok(false) | Err(_) => Err(QueueError::Requeued),
        }
    }
}

impl Drop for AckHandle {
    fn drop(&mut self) {
        let Some(acker) = self.acker.take().filter(Acker::usable) else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // If this fails, the channel is closed and the broker requeues the message.
                let _ = with_timeout(acker.reject(BasicRejectOptions { requeue: true })).await;
            });
        }
    }
}
