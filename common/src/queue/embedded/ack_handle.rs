//! The acknowledgement of a delivery of the embedded queue.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use model::queue_name::QueueName;
use rusqlite::Connection;
use tokio::sync::Notify;

use crate::database::{Database, DatabaseError};
use crate::queue::error::QueueError;

/// The state that the queue shares with its deliveries.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) database: Arc<Database>,
    /// Wakes the receivers of each queue.
    pub(super) wakeups: [Notify; 3],
    /// The number of the next lease.
    pub(super) next_lease: AtomicI64,
}

impl Shared {
    pub(super) fn wakeup(&self, queue_name: QueueName) -> &Notify {
        &self.wakeups[queue_name as usize]
    }
}

/// The handle that acknowledges one delivery. Dropping it releases the lease.
#[derive(Debug)]
pub(in crate::queue) struct AckHandle {
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) queue_name: QueueName,
    pub(super) lease: i64,
}

impl AckHandle {
    pub(in crate::queue) async fn ack(mut self) -> Result<(), QueueError> {
        let Some(shared) = self.shared.take() else {
            return Err(QueueError::Requeued);
        };
        let lease = self.lease;
        let work = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE lease = ?1)",
                )?
                .execute([lease])
        };
        match shared.database.write(work).await.map_err(unavailable)? {
            0 => Err(QueueError::Requeued),
            _ => Ok(()),
        }
    }
}

impl Drop for AckHandle {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else {
            return;
        };
        let (queue_name, lease) = (self.queue_name, self.lease);
        let waker = shared.clone();
        // `drop` cannot wait for the result. A receiver finds the rows at its next check.
        drop(shared.database.submit(move |connection| {
            let released =
                connection.execute("UPDATE messages SET lease = NULL WHERE lease = ?1", [lease]);
            waker.wakeup(queue_name).notify_one();
            released
        }));
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
