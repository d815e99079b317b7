//! The state that the embedded queue shares with its deliveries and with publishes that wait.
//!
//! Invariant: a lease is in exactly one of three states: held by a delivery, abandoned and listed
//! here, or released in the database.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::queue_name::QueueName;
use tokio::sync::Notify;
use tokio::sync::watch;

use crate::database::Database;
use crate::queue::error::QueueError;

/// The largest number of bytes of messages that may wait for the writer of the database. A disk
/// that does not answer must not fill the memory.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// The shared state.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) database: Arc<Database>,
    /// Wakes the receivers of each queue.
    pub(super) wakeups: [Notify; QueueName::ALL.len()],
    /// Whether no further message is to be delivered.
    pub(super) is_stopped: watch::Sender<bool>,
    /// The number of the next lease.
    pub(super) next_lease: AtomicI64,
    /// The leases of each queue whose holder has given them up, and whose rows are not released
    /// yet.
    pub(super) abandoned: [Mutex<Vec<i64>>; QueueName::ALL.len()],
    /// The size of the messages that wait for the writer of the database.
    pub(super) waiting_bytes: Arc<AtomicUsize>,
}

impl Shared {
    pub(super) fn wakeup(&self, queue_name: QueueName) -> &Notify {
        &self.wakeups[queue_name as usize]
    }

    fn abandoned(&self, queue_name: QueueName) -> MutexGuard<'_, Vec<i64>> {
        self.abandoned[queue_name as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that nobody holds a lease any more, and wakes a receiver, which releases its rows.
    pub(super) fn abandon(&self, queue_name: QueueName, lease: i64) {
        self.abandoned(queue_name).push(lease);
        self.wakeup(queue_name).notify_one();
    }

    /// Returns the leases that the next receive must release.
    pub(super) fn abandoned_leases(&self, queue_name: QueueName) -> Vec<i64> {
        self.abandoned(queue_name).clone()
    }

    /// Removes leases whose rows were released.
    pub(super) fn forget_abandoned(&self, queue_name: QueueName, released: &[i64]) {
        if !released.is_empty() {
            self.abandoned(queue_name)
                .retain(|lease| !released.contains(lease));
        }
    }
}

/// The bytes of messages that wait for the writer. Dropping it returns them.
#[derive(Debug)]
pub(super) struct WaitingBytes {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl WaitingBytes {
    /// Adds `bytes` to the waiting bytes. Fails if other messages wait and there would be more than
    /// [`MAX_WAITING_BYTES`].
    pub(super) fn reserve(total: &Arc<AtomicUsize>, bytes: usize) -> Result<Self, QueueError> {
        let before = total.fetch_add(bytes, Ordering::Relaxed);
        let reserved = Self {
            total: total.clone(),
            bytes,
        };
        if before > 0 && before + bytes > MAX_WAITING_BYTES {
            let reason = "the database does not keep up: too many messages wait to be written";
            return Err(QueueError::Unavailable(reason.to_owned()));
        }
        Ok(reserved)
    }
}

impl Drop for WaitingBytes {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
