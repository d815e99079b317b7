//! Consuming: one connection, a channel per queue, opened when the queue is first received from.
//!
//! Invariants: a consumer stream that ended is never polled again (lapin hangs there); giving back
//! a queue closes its channel, so the broker redelivers everything at once; an acknowledgement counts
//! only if lapin says it was sent.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer};
use model::job::decode_message;
use model::queue_name::QueueName;
use tokio::sync::{Mutex, Notify};

use super::connection::Target;
use super::deadline::{bounded, describe};
use super::receipt::Receipt;
use super::topology::{DEAD, amqp_queue, declare};
use crate::queue::Depth;
use crate::queue::delivery::{Delivery, Receipt as AnyReceipt};
use crate::queue::error::QueueError;

/// Messages in hand per consumer.
const PREFETCH: u16 = 16;
/// What the broker gave up on counts as delivered at least this often.
const DEAD_ATTEMPT: u32 = 3;

/// The consuming half of the queue.
#[derive(Debug)]
pub(super) struct Consumers {
    target: Arc<Target>,
    connection: Mutex<Option<Arc<Connection>>>,
    queues: [QueueState; 3],
}

#[derive(Debug, Default)]
struct QueueState {
    // Held while waiting for a message: receivers of a queue queue up here.
    open: Mutex<Option<OpenQueue>>,
    // Tiny critical sections, never across an await: `release` must not wait for a receiver.
    channel: StdMutex<Option<Arc<Channel>>>,
    released: Notify,
}

#[derive(Debug)]
struct OpenQueue {
    work: Consumer,
    dead: Option<Consumer>,
}

impl Consumers {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            connection: Mutex::new(None),
            queues: Default::default(),
        }
    }

    pub(super) async fn receive(&self, queue_name: QueueName) -> Result<Delivery, QueueError> {
        let state = &self.queues[queue_name as usize];
        let mut open = state.open.lock().await;
        loop {
            let consumers = match open.as_mut() {
                Some(consumers) => consumers,
                None => open.insert(self.open(queue_name, state).await?),
            };
            let next = tokio::select! {
                next = consumers.next() => next,
                () = state.released.notified() => None,
            };
            match next {
                Some((Ok(delivery), is_dead)) if delivery.acker.usable() => {
                    return Ok(take(delivery, is_dead));
                }
                Some((Err(error), _)) => {
                    *open = None;
                    return Err(describe(&error));
                }
                // The stream has ended, or this was buffered before the channel broke: the broker
                // delivers it again.
                Some((Ok(_), _)) | None => *open = None,
            }
        }
    }

    async fn open(
        &self,
        queue_name: QueueName,
        state: &QueueState,
    ) -> Result<OpenQueue, QueueError> {
        let channel = Arc::new(self.channel().await?);
        let fail = |error: lapin::Error| describe(&error);
        declare(&channel).await?;
        bounded(channel.basic_qos(PREFETCH, BasicQosOptions::default()))
            .await?
            .map_err(fail)?;
        let consume = async |queue: String| {
            let options = BasicConsumeOptions::default();
            let consumer =
                channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
            bounded(consumer).await?.map_err(fail)
        };
        let work = consume(amqp_queue(queue_name)).await?;
        let dead = if queue_name == QueueName::Webhooks {
            Some(consume(DEAD.to_owned()).await?)
        } else {
            None
        };
        *state.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        Ok(OpenQueue { work, dead })
    }

    /// A new channel, on a new connection if the old one is of no more use.
    async fn channel(&self) -> Result<Channel, QueueError> {
        let mut stored = self.connection.lock().await;
        if let Some(connection) = stored
            .as_ref()
            .filter(|connection| connection.status().connected())
            && let Ok(Ok(channel)) = bounded(connection.create_channel()).await
        {
            return Ok(channel);
        }
        *stored = None;
        let connection = stored.insert(Arc::new(self.target.connect("consume").await?));
        bounded(connection.create_channel())
            .await?
            .map_err(|error| describe(&error))
    }

    pub(super) async fn release(&self, queue_name: QueueName) {
        let state = &self.queues[queue_name as usize];
        let channel = state
            .channel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(channel) = channel {
            let closed = bounded(channel.close(200, "released".into())).await;
            if !matches!(closed, Ok(Ok(()))) {
                // The broker gives everything back when the connection ends.
                *self.connection.lock().await = None;
            }
            state.released.notify_waiters();
            // Without a receiver waiting, the next one must find the queue closed.
            if let Ok(mut open) = state.open.try_lock() {
                *open = None;
            }
        }
    }

    pub(super) async fn depth(&self, queue_name: QueueName) -> Result<Depth, QueueError> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions::durable().passive();
        let declared = bounded(channel.queue_declare(
            amqp_queue(queue_name).into(),
            passive,
            FieldTable::default(),
        ))
        .await?;
        let messages = declared.map_err(|error| describe(&error))?.message_count();
        let _ = bounded(channel.close(200, "asked".into())).await;
        Ok(Depth {
            messages: u64::from(messages),
        })
    }
}

impl OpenQueue {
    /// The next message and whether it comes from the dead queue; `None` when a stream has ended.
    async fn next(&mut self) -> Option<(lapin::Result<lapin::message::Delivery>, bool)> {
        match &mut self.dead {
            None => Some((self.work.next().await?, false)),
            Some(dead) => tokio::select! {
                next = self.work.next() => Some((next?, false)),
                next = dead.next() => Some((next?, true)),
            },
        }
    }
}

fn take(delivery: lapin::message::Delivery, is_dead: bool) -> Delivery {
    let headers = delivery.properties.headers().as_ref();
    // Absent at the first delivery on 4.x, zero on 3.10.
    let returned = match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
        Some(AMQPValue::LongLongInt(n)) => u32::try_from(*n).unwrap_or(0),
        Some(AMQPValue::LongInt(n)) => u32::try_from(*n).unwrap_or(0),
        Some(AMQPValue::LongUInt(n)) => *n,
        Some(AMQPValue::ShortInt(n)) => u32::try_from(*n).unwrap_or(0),
        Some(AMQPValue::ShortShortInt(n)) => u32::try_from(*n).unwrap_or(0),
        Some(AMQPValue::ShortUInt(n)) => u32::from(*n),
        Some(AMQPValue::ShortShortUInt(n)) => u32::from(*n),
        _ => 0,
    };
    let attempt = returned
        .saturating_add(1)
        .max(if is_dead { DEAD_ATTEMPT } else { 1 });
    let receipt = Receipt {
        acker: Some(delivery.acker),
    };
    Delivery {
        jobs: decode_message(&delivery.data),
        attempt,
        receipt: AnyReceipt::RabbitMq(receipt),
    }
}
