//! The queue in the embedded database, for a deployment of one process.
//!
//! Each message is a row, and a receive leases rows by writing a new lease number into them.
//! Invariants: a row is deleted only by the holder of its current lease, in a commit that is on
//! disk. A lease that nobody holds is released by the next receive, also if the database refused
//! writes when its holder gave it up.

pub(in crate::queue) mod ack_handle;
mod shared;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use model::job::{Job, decode_message, encode_message};
use model::queue_name::QueueName;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::watch;

use super::delivery::{AckHandle as AnyAckHandle, Delivery};
use super::error::QueueError;
use super::messages::{MAX_MESSAGE_BYTES, max_jobs, split_into_messages};
use super::{Depth, PUBLISH_DEADLINE, Queue};
use crate::database::{Access, Database, DatabaseError};
use ack_handle::{AckHandle, unavailable};
use shared::{Shared, WaitingBytes};

/// How often a receiver checks for messages. Commands publish from another process and cannot wake
/// a receiver.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The largest number of rows in one delivery.
const MAX_ROWS: usize = 64;
/// Messages that were already delivered this often are delivered alone.
const ALONE_AFTER_DELIVERIES: u32 = 2;

/// The queue of a one-process deployment.
#[derive(Debug)]
pub struct EmbeddedQueue {
    shared: Arc<Shared>,
}

impl EmbeddedQueue {
    /// Opens the queue. With exclusive access, it releases the leases that an earlier process left.
    pub async fn open(database: Arc<Database>, access: Access) -> Result<Self, QueueError> {
        if access == Access::Exclusive {
            let release_leases = |connection: &Connection| {
                connection.execute(
                    "UPDATE messages SET lease = NULL WHERE lease IS NOT NULL",
                    [],
                )
            };
            database.write(release_leases).await.map_err(unavailable)?;
        }
        let shared = Shared {
            database,
            wakeups: Default::default(),
            is_stopped: watch::Sender::new(false),
            next_lease: AtomicI64::new(1),
            abandoned: Default::default(),
            waiting_bytes: Arc::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Leases the next delivery of a queue. Returns `None` if no message waits.
    async fn lease_delivery(&self, queue_name: QueueName) -> Result<Option<Delivery>, QueueError> {
        let shared = self.shared.clone();
        let lease = self.shared.next_lease.fetch_add(1, Ordering::Relaxed);
        let abandoned = self.shared.abandoned_leases(queue_name);
        let released = abandoned.clone();
        // The ack handle is created inside the transaction. If the caller is cancelled before the
        // result arrives, dropping the result releases the rows.
        let work = move |connection: &Connection| {
            release_leases(connection, queue_name, &abandoned)?;
            let Some(leased) = lease_rows(connection, queue_name, lease)? else {
                return Ok(None);
            };
            let handle = AckHandle {
                shared: Some(shared),
                queue_name,
                lease,
            };
            Ok(Some((leased, handle)))
        };
        let leased = self
            .shared
            .database
            .write(work)
            .await
            .map_err(unavailable)?;
        self.shared.forget_abandoned(queue_name, &released);
        Ok(leased.map(|((jobs, attempt), handle)| Delivery {
            jobs,
            attempt,
            ack_handle: AnyAckHandle::Embedded(handle),
        }))
    }
}

/// Releases the rows of leases that nobody holds any more.
fn release_leases(
    connection: &Connection,
    queue_name: QueueName,
    leases: &[i64],
) -> rusqlite::Result<()> {
    let mut update = connection
        .prepare_cached("UPDATE messages SET lease = NULL WHERE queue = ?1 AND lease = ?2")?;
    for lease in leases {
        update.execute(params![queue_name.as_str(), lease])?;
    }
    Ok(())
}

/// Leases the rows of the next delivery. Returns their jobs and how often they were delivered,
/// including this time.
fn lease_rows(
    connection: &Connection,
    queue_name: QueueName,
    lease: i64,
) -> rusqlite::Result<Option<(Vec<Job>, u32)>> {
    let mut select = connection.prepare_cached(
        "SELECT id, attempt, body FROM messages WHERE queue = ?1 AND lease IS NULL ORDER BY id LIMIT ?2",
    )?;
    let mut rows = select.query(params![queue_name.as_str(), MAX_ROWS])?;
    let mut update = connection
        .prepare_cached("UPDATE messages SET lease = ?1, attempt = attempt + 1 WHERE id = ?2")?;
    let (mut jobs, mut bytes, mut group_deliveries) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        let (id, deliveries, body): (i64, u32, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let alone = group_deliveries
            .is_some_and(|group| group != deliveries || deliveries >= ALONE_AFTER_DELIVERIES);
        let row_jobs = decode_message(&body);
        if !jobs.is_empty()
            && (alone
                || jobs.len() + row_jobs.len() > max_jobs(queue_name)
                || bytes + body.len() > MAX_MESSAGE_BYTES)
        {
            break;
        }
        group_deliveries = Some(deliveries);
        bytes += body.len();
        jobs.extend(row_jobs);
        update.execute(params![lease, id])?;
    }
    Ok(group_deliveries.map(|deliveries| (jobs, deliveries + 1)))
}

#[async_trait]
impl Queue for EmbeddedQueue {
    async fn publish(&self, queue_name: QueueName, jobs: &[Job]) -> Result<(), QueueError> {
        let bodies: Vec<String> = split_into_messages(queue_name, jobs)
            .iter()
            .map(|group| encode_message(group.iter().map(String::as_str)))
            .collect();
        let new_bytes: usize = bodies.iter().map(String::len).sum();
        let reserved = WaitingBytes::reserve(&self.shared.waiting_bytes, new_bytes)?;
        let work = move |connection: &Connection| {
            let _reserved = reserved;
            let mut has_room = connection.prepare_cached(
                "SELECT 1 FROM queues WHERE queue = ?1 AND bytes + ?2 <= max_bytes",
            )?;
            if has_room
                .query_row(params![queue_name.as_str(), new_bytes], |_| Ok(()))
                .optional()?
                .is_none()
            {
                return Ok(Err(QueueError::Full(queue_name)));
            }
            let mut insert = connection
                .prepare_cached("INSERT INTO messages (queue, attempt, body) VALUES (?1, 0, ?2)")?;
            for body in &bodies {
                insert.execute(params![queue_name.as_str(), body.as_bytes()])?;
            }
            Ok(Ok(()))
        };
        // If the deadline passes before the turn of this write, it is not executed: its caller has
        // reported a failure.
        let submitted = self.shared.database.submit_if_awaited(work);
        let late = || QueueError::Unavailable("the database did not commit in time".to_owned());
        let result = tokio::time::timeout(PUBLISH_DEADLINE, submitted)
            .await
            .map_err(|_| late())?;
        let committed = result.unwrap_or(Err(DatabaseError::Closed));
        committed.map_err(unavailable)??;
        self.shared.wakeup(queue_name).notify_one();
        Ok(())
    }

    async fn receive(&self, queue_name: QueueName) -> Result<Delivery, QueueError> {
        let mut is_stopped = self.shared.is_stopped.subscribe();
        while !*is_stopped.borrow_and_update() {
            if let Some(delivery) = self.lease_delivery(queue_name).await? {
                // More messages may wait than fit this delivery: wake another receiver.
                self.shared.wakeup(queue_name).notify_one();
                return Ok(delivery);
            }
            tokio::select! {
                _ = is_stopped.changed() => {}
                () = self.shared.wakeup(queue_name).notified() => {}
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
        }
        Err(QueueError::Stopped)
    }

    fn start_receiving(&self) {
        self.shared.is_stopped.send_replace(false);
    }

    fn stop_receiving(&self) {
        self.shared.is_stopped.send_replace(true);
    }

    async fn requeue(&self, queue_name: QueueName) -> Result<(), QueueError> {
        let work = move |connection: &Connection| {
            connection.execute(
                "UPDATE messages SET lease = NULL WHERE queue = ?1 AND lease IS NOT NULL",
                [queue_name.as_str()],
            )
        };
        self.shared
            .database
            .write(work)
            .await
            .map_err(unavailable)?;
        self.shared.wakeup(queue_name).notify_one();
        Ok(())
    }

    async fn depth(&self, queue_name: QueueName) -> Result<Depth, QueueError> {
        let count = move |connection: &Connection| {
            connection.query_row(
                "SELECT waiting FROM queues WHERE queue = ?1",
                [queue_name.as_str()],
                |row| row.get(0),
            )
        };
        let messages = self
            .shared
            .database
            .read(count)
            .await
            .map_err(unavailable)?;
        Ok(Depth {
            messages,
            // The process that has opened the database is the only worker.
            consumers: 1,
        })
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.depth(QueueName::Webhooks).await.map(drop)
    }

    fn is_ready(&self) -> bool {
        true
    }
}
