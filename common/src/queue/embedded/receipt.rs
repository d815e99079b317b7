//! The right to acknowledge a delivery of the embedded queue.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use model::queue_name::QueueName;
use rusqlite::Connection;
use tokio::sync::Notify;

use crate::database::{Database, DatabaseError};
use crate::queue::error::QueueError;

/// What the queue and its deliveries share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) database: Arc<Database>,
    pub(super) waiting: [Notify; 3],
    pub(super) next_lease: AtomicI64,
}

impl Shared {
    pub(super) fn waiting(&self, queue_name: QueueName) -> &Notify {
        &self.waiting[queue_name as usize]
    }
}

/// The right to acknowledge one delivery.
#[derive(Debug)]
pub(in crate::queue) struct Receipt {
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) queue_name: QueueName,
    pub(super) lease: i64,
}

impl Receipt {
    pub(in crate::queue) async fn ack(mut self) -> Result<(), QueueError> {
        let Some(shared) = self.shared.take() else {
            return Err(QueueError::Lost);
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
            0 => Err(QueueError::Lost),
            _ => Ok(()),
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else {
            return;
        };
        let (queue_name, lease) = (self.queue_name, self.lease);
        let waker = shared.clone();
        // Nobody waits for the answer; the next look of a receiver finds the rows.
        drop(shared.database.submit(move |connection| {
            let given_back =
                connection.execute("UPDATE messages SET lease = NULL WHERE lease = ?1", [lease]);
            waker.waiting(queue_name).notify_one();
            given_back
        }));
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
pub(super) fn unavailable(error: DatabaseError) -> QueueError {
    QueueError::Unavailable(error.to_string())
}
