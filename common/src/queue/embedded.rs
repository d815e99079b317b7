//! The queue in the embedded database, for one process.
//!
//! A message is a row; a lease is the number of the receive that took it. Invariant: a row is
//! deleted only by the holder of its current lease, in a commit that is on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use model::job::{Job, decode, message};
use model::lane::Lane;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::Notify;

use super::rabbitmq::PUBLISH_DEADLINE;
use super::{
    Delivery, Depth, MAX_BYTES, MAX_JOBS, Queue, QueueError, Receipt as AnyReceipt, groups,
};
use crate::database::{Access, Database, DatabaseError};

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

#[derive(Debug)]
struct Shared {
    database: Arc<Database>,
    waiting: [Notify; 3],
    next_lease: AtomicI64,
}

impl Shared {
    fn waiting(&self, lane: Lane) -> &Notify {
        &self.waiting[lane as usize]
    }
}

impl EmbeddedQueue {
    /// Opens the queue. The owner of the database takes back what an earlier process left leased.
    pub async fn open(database: Arc<Database>, access: Access) -> Result<Self, QueueError> {
        if access == Access::Owner {
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

    async fn take(&self, lane: Lane) -> Result<Option<Delivery>, QueueError> {
        let shared = self.shared.clone();
        let lease = self.shared.next_lease.fetch_add(1, Ordering::Relaxed);
        // The receipt is made inside the transaction: if the caller is gone when the answer comes,
        // dropping the answer gives the rows back.
        let work = move |connection: &Connection| {
            let Some(taken) = take_rows(connection, lane, lease)? else {
                return Ok(None);
            };
            let receipt = Receipt {
                shared: Some(shared),
                lane,
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
    lane: Lane,
    lease: i64,
) -> rusqlite::Result<Option<(Vec<Job>, u32)>> {
    let mut select = connection.prepare_cached(
        "SELECT id, attempt, body FROM messages WHERE lane = ?1 AND lease IS NULL ORDER BY id LIMIT ?2",
    )?;
    let mut rows = select.query(params![lane.name(), MAX_ROWS])?;
    let mut update = connection
        .prepare_cached("UPDATE messages SET lease = ?1, attempt = attempt + 1 WHERE id = ?2")?;
    let (mut jobs, mut bytes, mut tried) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        let (id, attempts, body): (i64, u32, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let alone = lane != Lane::Webhooks
            || tried.is_some_and(|tried| tried != attempts || attempts >= ALONE_FROM);
        let more = decode(&body);
        if !jobs.is_empty()
            && (alone || jobs.len() + more.len() > MAX_JOBS || bytes + body.len() > MAX_BYTES)
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
    async fn publish(&self, lane: Lane, jobs: &[Job]) -> Result<(), QueueError> {
        let bodies: Vec<String> = groups(lane, jobs)
            .iter()
            .map(|group| message(group.iter().map(String::as_str)))
            .collect();
        let work = move |connection: &Connection| {
            let new: usize = bodies.iter().map(String::len).sum();
            let mut room = connection.prepare_cached(
                "SELECT 1 FROM lanes WHERE lane = ?1 AND bytes + ?2 <= max_bytes",
            )?;
            if room
                .query_row(params![lane.name(), new], |_| Ok(()))
                .optional()?
                .is_none()
            {
                return Ok(Err(QueueError::Full(lane)));
            }
            let mut insert = connection
                .prepare_cached("INSERT INTO messages (lane, attempt, body) VALUES (?1, 0, ?2)")?;
            for body in &bodies {
                insert.execute(params![lane.name(), body.as_bytes()])?;
            }
            Ok(Ok(()))
        };
        let written =
            tokio::time::timeout(PUBLISH_DEADLINE, self.shared.database.write(work)).await;
        let written = written
            .map_err(|_| QueueError::Unavailable("the disk did not answer in time".to_owned()))?;
        written.map_err(unavailable)??;
        self.shared.waiting(lane).notify_one();
        Ok(())
    }

    async fn receive(&self, lane: Lane) -> Result<Delivery, QueueError> {
        loop {
            if let Some(delivery) = self.take(lane).await? {
                // There may be more than one delivery's worth: wake the next receiver too.
                self.shared.waiting(lane).notify_one();
                return Ok(delivery);
            }
            let _ = tokio::time::timeout(LOOK, self.shared.waiting(lane).notified()).await;
        }
    }

    async fn release(&self, lane: Lane) -> Result<(), QueueError> {
        let work = move |connection: &Connection| {
            connection.execute(
                "UPDATE messages SET lease = NULL WHERE lane = ?1 AND lease IS NOT NULL",
                [lane.name()],
            )
        };
        self.shared
            .database
            .write(work)
            .await
            .map_err(unavailable)?;
        self.shared.waiting(lane).notify_one();
        Ok(())
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        let question = move |connection: &Connection| {
            connection.query_row(
                "SELECT count(*) FROM messages WHERE lane = ?1 AND lease IS NULL",
                [lane.name()],
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

/// The right to acknowledge one delivery.
#[derive(Debug)]
pub(super) struct Receipt {
    shared: Option<Arc<Shared>>,
    lane: Lane,
    lease: i64,
}

impl Receipt {
    pub(super) async fn ack(mut self) -> Result<(), QueueError> {
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
        let (lane, lease) = (self.lane, self.lease);
        let waker = shared.clone();
        // Nobody waits for the answer; the next look of a receiver finds the rows.
        drop(shared.database.submit(move |connection| {
            let given_back =
                connection.execute("UPDATE messages SET lease = NULL WHERE lease = ?1", [lease]);
            waker.waiting(lane).notify_one();
            given_back
        }));
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn unavailable(error: DatabaseError) -> QueueError {
    QueueError::Unavailable(error.to_string())
}
