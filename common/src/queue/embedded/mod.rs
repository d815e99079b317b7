//! The queue in the embedded database, for one process.
//!
//! A message is a row; a lease is the number of the receive that took it. Invariant: a row is
//! deleted only by the holder of its current lease, in a commit that is on disk.

pub(in crate::queue) mod receipt;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use model::job::{Job, decode_message, encode_message};
use model::queue_name::QueueName;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::delivery::{Delivery, Receipt as AnyReceipt};
use super::error::QueueError;
use super::messages::{MAX_JOBS_PER_MESSAGE, MAX_MESSAGE_BYTES, split_into_messages};
use super::{Depth, PUBLISH_DEADLINE, Queue};
use crate::database::{Access, Database};
use receipt::{Receipt, Shared, unavailable};

/// Commands publish from another process and cannot wake us: look this often.
const LOOK: Duration = Duration::from_secs(1);
/// At most this many rows make one delivery.
const MAX_ROWS: usize = 64;
/// A message delivered this often is delivered alone from then on.
const ALONE_FROM: u32 = 2;

/// The queue of a one-process deployment.
#[derive(Debug)]
pub struct EmbeddedQueue {
    shared: Arc<Shared>,
}

impl EmbeddedQueue {
    /// Opens the queue. The owner of the database takes back what an earlier process left leased.
    pub async fn open(database: Arc<Database>, access: Access) -> Result<Self, QueueError> {
        if access == Access::Exclusive {
            let take_back = |c: &Connection| {
                c.execute(
                    "UPDATE messages SET lease = NULL WHERE lease IS NOT NULL",
                    [],
                )
            };
            database.write(take_back).await.map_err(unavailable)?;
        }
        let shared = Shared {
            database,
            waiting: Default::default(),
            next_lease: AtomicI64::new(1),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    async fn take(&self, queue_name: QueueName) -> Result<Option<Delivery>, QueueError> {
        let shared = self.shared.clone();
        let lease = self.shared.next_lease.fetch_add(1, Ordering::Relaxed);
        // The receipt is made inside the transaction: if the caller is gone when the answer comes,
        // dropping the answer gives the rows back.
        let work = move |connection: &Connection| {
            let Some(taken) = take_rows(connection, queue_name, lease)? else {
                return Ok(None);
            };
            let receipt = Receipt {
                shared: Some(shared),
                queue_name,
                lease,
            };
            Ok(Some((taken, receipt)))
        };
        let taken = self
            .shared
            .database
            .write(work)
            .await
            .map_err(unavailable)?;
        Ok(taken.map(|((jobs, attempt), receipt)| Delivery {
            jobs,
            attempt,
            receipt: AnyReceipt::Embedded(receipt),
        }))
    }
}

fn take_rows(
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
    let (mut jobs, mut bytes, mut tried) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        let (id, attempts, body): (i64, u32, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let alone = queue_name != QueueName::Webhooks
            || tried.is_some_and(|tried| tried != attempts || attempts >= ALONE_FROM);
        let more = decode_message(&body);
        if !jobs.is_empty()
            && (alone
                || jobs.len() + more.len() > MAX_JOBS_PER_MESSAGE
                || bytes + body.len() > MAX_MESSAGE_BYTES)
        {
            break;
        }
        tried = Some(attempts);
        bytes += body.len();
        jobs.extend(more);
        update.execute(params![lease, id])?;
    }
    Ok(tried.map(|attempts| (jobs, attempts + 1)))
}

#[async_trait]
impl Queue for EmbeddedQueue {
    async fn publish(&self, queue_name: QueueName, jobs: &[Job]) -> Result<(), QueueError> {
        let bodies: Vec<String> = split_into_messages(queue_name, jobs)
            .iter()
            .map(|group| encode_message(group.iter().map(String::as_str)))
            .collect();
        let work = move |connection: &Connection| {
            let new: usize = bodies.iter().map(String::len).sum();
            let mut room = connection.prepare_cached(
                "SELECT 1 FROM queues WHERE queue = ?1 AND bytes + ?2 <= max_bytes",
            )?;
            if room
                .query_row(params![queue_name.as_str(), new], |_| Ok(()))
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
        let written =
            tokio::time::timeout(PUBLISH_DEADLINE, self.shared.database.write(work)).await;
        let written = written
            .map_err(|_| QueueError::Unavailable("the disk did not answer in time".to_owned()))?;
        written.map_err(unavailable)??;
        self.shared.waiting(queue_name).notify_one();
        Ok(())
    }

    async fn receive(&self, queue_name: QueueName) -> Result<Delivery, QueueError> {
        loop {
            if let Some(delivery) = self.take(queue_name).await? {
                // There may be more than one delivery's worth: wake the next receiver too.
                self.shared.waiting(queue_name).notify_one();
                return Ok(delivery);
            }
            let _ = tokio::time::timeout(LOOK, self.shared.waiting(queue_name).notified()).await;
        }
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
        self.shared.waiting(queue_name).notify_one();
        Ok(())
    }

    async fn depth(&self, queue_name: QueueName) -> Result<Depth, QueueError> {
        let question = move |connection: &Connection| {
            connection.query_row(
                "SELECT count(*) FROM messages WHERE queue = ?1 AND lease IS NULL",
                [queue_name.as_str()],
                |row| row.get(0),
            )
        };
        let messages = self
            .shared
            .database
            .read(question)
            .await
            .map_err(unavailable)?;
        Ok(Depth { messages })
    }

    fn is_ready(&self) -> bool {
        true
    }
}
