//! The acknowledgement of a delivery of the embedded queue.

use std::sync::Arc;

use model::queue_name::QueueName;
use rusqlite::{Connection, params};

use super::shared::Shared;
use crate::database::DatabaseError;
use crate::queue::error::QueueError;

/// The handle that acknowledges one delivery. Dropping it releases the lease.
#[derive(Debug)]
pub(in crate::queue) struct AckHandle {
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) queue_name: QueueName,
    pub(super) lease: i64,
}

impl AckHandle {
    pub(in crate::queue) async fn ack(mut self) -> Result<(), QueueError> {
        let Some(shared) = self.shared.clone() else {
            return Err(QueueError::Requeued);
        };
        let (queue_name, lease) = (self.queue_name, self.lease);
        let work = move |connection: &Connection| {
            connection
                .prepare_cached("DELETE FROM messages WHERE queue = ?1 AND lease = ?2")?
                .execute(params![queue_name.as_str(), lease])
        };
        // If the write fails, or the caller gives up, the drop of this handle releases the lease.
        let deleted = shared.database.write(work).await.map_err(unavailable)?;
        self.shared = None;
        match deleted {
            0 => Err(QueueError::Requeued),
            _ => Ok(()),
        }
    }
}

impl Drop for AckHandle {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.abandon(self.queue_name, self.lease);
        }
    }
}

/// Converts an error of the database.
#[expect(
    clippy::needless_pass_by_value,
    reason = "map_err passes the error by value"
)]
pub(super) fn unavailable(error: DatabaseError) -> QueueError {
    QueueError::Unavailable(error.to_string())
}
