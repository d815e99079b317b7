//! The consumers: one connection, with a channel for each queue that has been received from.
//!
//! Invariants:
//!
//! - A consumer stream that has ended is never polled again, because lapin hangs in that poll.
//! - A worker that stops cancels its consumers and receives what was delivered already, so that it
//!   gives no message back.
//! - A requeue closes the channel of its queue, so that the broker redelivers all messages at once.
//! - An acknowledgement succeeds only if lapin reports that it was sent.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use futures_util::StreamExt as _;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer};
use model::job::decode_message;
use model::queue_name::QueueName;
use tokio::sync::{Mutex, Notify, watch};

use super::ack_handle::AckHandle;
use super::connection::Broker;
use super::deadline::{unavailable, with_timeout};
use super::topology::{DEAD_LETTER_QUEUE, amqp_queue, declare};
use crate::queue::delivery::{AckHandle as AnyAckHandle, Delivery};
use crate::queue::error::QueueError;
use crate::queue::{Depth, concurrency};

/// The lowest attempt of a delivery from the dead-letter queue: the worker treats its message as a
/// poison message.
const MIN_DEAD_LETTER_ATTEMPT: u32 = 3;

/// The consuming half of the queue.
#[derive(Debug)]
pub(super) struct Consumers {
    broker: Arc<Broker>,
    connection: Mutex<Option<Arc<Connection>>>,
    queues: [QueueState; QueueName::ALL.len()],
    /// How many polls of each queue the worker makes at a time.
    poll_concurrency: u16,
    /// Whether no further message is to be delivered.
    is_stopped: watch::Sender<bool>,
}

/// The channel of one queue, and the consumers on it.
#[derive(Debug, Default)]
struct QueueState {
    /// Locked while a receiver waits for a message, so that the receivers of a queue take turns.
    consumers: Mutex<Option<QueueConsumers>>,
    /// Never locked across an await: `requeue` must not wait for a receiver.
    channel: StdMutex<Option<Arc<Channel>>>,
    /// Wakes the receiver that waits for a message of a channel that was closed.
    requeued: Notify,
}

/// The consumers of one queue.
#[derive(Debug)]
struct QueueConsumers {
    channel: Arc<Channel>,
    jobs: Consumer,
    /// Whether the stream of `jobs` has ended.
    jobs_ended: bool,
    /// The consumer of the dead-letter queue, which only the queue of webhooks has.
    dead_letters: Option<Consumer>,
    /// Whether the consumers were cancelled.
    is_cancelled: bool,
}

impl Consumers {
    pub(super) fn new(broker: Arc<Broker>, poll_concurrency: u16) -> Self {
        Self {
            broker,
            connection: Mutex::new(None),
            queues: Default::default(),
            poll_concurrency,
            is_stopped: watch::Sender::new(false),
        }
    }

    /// Waits for the next message of a queue. Opens a new channel if the queue has no usable one.
    pub(super) async fn receive(&self, queue_name: QueueName) -> Result<Delivery, QueueError> {
        let state = &self.queues[queue_name as usize];
        let mut consumers = state.consumers.lock().await;
        let mut stopped = self.is_stopped.subscribe();
        loop {
            let streams = match consumers.as_mut() {
                Some(streams) => streams,
                None if *stopped.borrow() => return Err(QueueError::Stopped),
                None => consumers.insert(self.start_consumers(queue_name, state).await?),
            };
            let was_cancelled = streams.is_cancelled;
            let next = tokio::select! {
                next = streams.next() => next,
                () = state.requeued.notified() => None,
                () = wait_until_stopped(&mut stopped), if !was_cancelled => {
                    if streams.cancel().await.is_err() {
                        *consumers = None;
                    }
                    continue;
                }
            };
            match next {
                Some((Ok(delivery), is_dead_letter)) if delivery.acker.usable() => {
                    return Ok(into_delivery(delivery, is_dead_letter));
                }
                Some((Err(error), _)) => {
                    *consumers = None;
                    return Err(unavailable(&error));
                }
                // Either a stream has ended, or the message was buffered before the channel broke
                // and cannot be acknowledged. The broker delivers such a message again.
                Some((Ok(_), _)) | None => *consumers = None,
            }
        }
    }

    /// Ends the delivery of further messages, or starts it again.
    pub(super) fn set_stopped(&self, is_stopped: bool) {
        self.is_stopped.send_replace(is_stopped);
    }

    /// Opens a channel for a queue and starts its consumers.
    async fn start_consumers(
        &self,
        queue_name: QueueName,
        state: &QueueState,
    ) -> Result<QueueConsumers, QueueError> {
        let channel = Arc::new(self.open_channel().await?);
        let convert = |error: lapin::Error| unavailable(&error);
        declare(&channel).await?;
        // Each consumer gets no more messages than the worker handles at a time, so that a message
        // waits in the queue, from where another worker can take it.
        let prefetch = concurrency(queue_name, self.poll_concurrency);
        with_timeout(channel.basic_qos(prefetch, BasicQosOptions::default()))
            .await?
            .map_err(convert)?;
        let consume = async |queue: String| {
            let options = BasicConsumeOptions::default();
            let consumer =
                channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
            with_timeout(consumer).await?.map_err(convert)
        };
        let jobs = consume(amqp_queue(queue_name)).await?;
        let dead_letters = if queue_name == QueueName::Webhooks {
            Some(consume(DEAD_LETTER_QUEUE.to_owned()).await?)
        } else {
            None
        };
        *state.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
        Ok(QueueConsumers {
            channel,
            jobs,
            jobs_ended: false,
            dead_letters,
            is_cancelled: false,
        })
    }

    /// Opens a channel, on a new connection if the present one does not work.
    async fn open_channel(&self) -> Result<Channel, QueueError> {
        let mut stored = self.connection.lock().await;
        if let Some(connection) = stored
            .as_ref()
            .filter(|connection| connection.status().connected())
            && let Ok(Ok(channel)) = with_timeout(connection.create_channel()).await
        {
            return Ok(channel);
        }
        *stored = None;
        let connection = stored.insert(Arc::new(self.broker.connect("consume").await?));
        with_timeout(connection.create_channel())
            .await?
            .map_err(|error| unavailable(&error))
    }

    /// Requeues all unacknowledged messages of a queue by closing its channel.
    pub(super) async fn requeue(&self, queue_name: QueueName) {
        let state = &self.queues[queue_name as usize];
        let channel = state
            .channel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(channel) = channel {
            let closed = with_timeout(channel.close(200, "requeued".into())).await;
            if !matches!(closed, Ok(Ok(()))) {
                // The broker requeues the messages when the connection ends.
                *self.connection.lock().await = None;
            }
            state.requeued.notify_waiters();
            // If no receiver waits, the next one must not find the consumers of the closed channel.
            if let Ok(mut consumers) = state.consumers.try_lock() {
                *consumers = None;
            }
        }
    }

    /// Returns the number of messages that are ready in a queue.
    pub(super) async fn depth(&self, queue_name: QueueName) -> Result<Depth, QueueError> {
        let channel = self.open_channel().await?;
        let passive = QueueDeclareOptions::durable().passive();
        let declared = with_timeout(channel.queue_declare(
            amqp_queue(queue_name).into(),
            passive,
            FieldTable::default(),
        ))
        .await?;
        let queue = declared.map_err(|error| unavailable(&error))?;
        let _ = with_timeout(channel.close(200, "done".into())).await;
        Ok(Depth {
            messages: u64::from(queue.message_count()),
            consumers: u64::from(queue.consumer_count()),
        })
    }
}

impl QueueConsumers {
    /// Returns the next message and whether it comes from the dead-letter queue; `None` if a stream
    /// has ended, or, after a cancellation, if both have.
    async fn next(&mut self) -> Option<(lapin::Result<lapin::message::Delivery>, bool)> {
        if self.is_cancelled && !self.jobs_ended {
            match self.jobs.next().await {
                Some(next) => return Some((next, false)),
                None => self.jobs_ended = true,
            }
        }
        match &mut self.dead_letters {
            Some(dead_letters) if self.is_cancelled => Some((dead_letters.next().await?, true)),
            None if self.is_cancelled => None,
            None => Some((self.jobs.next().await?, false)),
            Some(dead_letters) => tokio::select! {
                next = self.jobs.next() => Some((next?, false)),
                next = dead_letters.next() => Some((next?, true)),
            },
        }
    }

    /// Cancels the consumers. Their streams end after the messages that were delivered already.
    async fn cancel(&mut self) -> Result<(), QueueError> {
        for consumer in std::iter::once(&self.jobs).chain(&self.dead_letters) {
            let options = BasicCancelOptions::default();
            let cancelled = self.channel.basic_cancel(consumer.tag(), options);
            with_timeout(cancelled)
                .await?
                .map_err(|error| unavailable(&error))?;
        }
        self.is_cancelled = true;
        Ok(())
    }
}

/// Waits until no further message is to be delivered.
async fn wait_until_stopped(is_stopped: &mut watch::Receiver<bool>) {
    // This fails only if the sender is dropped, and the caller has a reference to its owner.
    let _ = is_stopped.wait_for(|is_stopped| *is_stopped).await;
}

/// Converts a message of lapin.
fn into_delivery(delivery: lapin::message::Delivery, is_dead_letter: bool) -> Delivery {
    let headers = delivery.properties.headers().as_ref();
    // At the first delivery the header is missing on RabbitMQ 4.x, and zero on 3.10.
    let earlier_deliveries =
        match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
            Some(AMQPValue::LongLongInt(n)) => u32::try_from(*n).unwrap_or(0),
            Some(AMQPValue::LongInt(n)) => u32::try_from(*n).unwrap_or(0),
            Some(AMQPValue::LongUInt(n)) => *n,
            Some(AMQPValue::ShortInt(n)) => u32::try_from(*n).unwrap_or(0),
            Some(AMQPValue::ShortShortInt(n)) => u32::try_from(*n).unwrap_or(0),
            Some(AMQPValue::ShortUInt(n)) => u32::from(*n),
            Some(AMQPValue::ShortShortUInt(n)) => u32::from(*n),
            _ => 0,
        };
    let lowest = if is_dead_letter {
        MIN_DEAD_LETTER_ATTEMPT
    } else {
        1
    };
    let attempt = earlier_deliveries.saturating_add(1).max(lowest);
    let handle = AckHandle {
        acker: Some(delivery.acker),
    };
    Delivery {
        jobs: decode_message(&delivery.data),
        attempt,
        ack_handle: AnyAckHandle::RabbitMq(handle),
    }
}
