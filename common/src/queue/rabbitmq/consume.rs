//! Consuming: one connection, a channel per lane, opened when the lane is first received from.
//!
//! Invariants: a consumer stream that ended is never polled again (lapin hangs there); giving back
//! a lane closes its channel, so the broker redelivers everything at once; an acknowledgement counts
//! only if lapin says it was sent.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use futures_util::StreamExt as _;
use lapin::Acker;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer};
use model::job::decode;
use model::lane::Lane;
use tokio::sync::{Mutex, Notify};

use super::super::{Delivery, Depth, QueueError, Receipt as AnyReceipt};
use super::connection::Target;
use super::deadline::{bounded, describe};
use super::topology::{DEAD, declare, queue_name};

/// Messages in hand per consumer.
const PREFETCH: u16 = 16;
/// What the broker gave up on counts as delivered at least this often.
const DEAD_ATTEMPT: u32 = 3;

/// The consuming half of the queue.
#[derive(Debug)]
pub(super) struct Consumers {
    target: Arc<Target>,
    connection: Mutex<Option<Arc<Connection>>>,
    lanes: [LaneState; 3],
}

#[derive(Debug, Default)]
struct LaneState {
    // Held while waiting for a message: receivers of a lane queue up here.
    open: Mutex<Option<OpenLane>>,
    // Tiny critical sections, never across an await: `release` must not wait for a receiver.
    channel: StdMutex<Option<Arc<Channel>>>,
    released: Notify,
}

#[derive(Debug)]
struct OpenLane {
    work: Consumer,
    dead: Option<Consumer>,
}

impl Consumers {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            connection: Mutex::new(None),
            lanes: Default::default(),
        }
    }

    pub(super) async fn receive(&self, lane: Lane) -> Result<Delivery, QueueError> {
        let state = &self.lanes[lane as usize];
        let mut open = state.open.lock().await;
        loop {
            let consumers = match open.as_mut() {
                Some(consumers) => consumers,
                None => open.insert(self.open(lane, state).await?),
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

    async fn open(&self, lane: Lane, state: &LaneState) -> Result<OpenLane, QueueError> {
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
        let work = consume(queue_name(lane)).await?;
        let dead = if lane == Lane::Webhooks {
            Some(consume(DEAD.to_owned()).await?)
        } else {
            None
        };
        *state.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        Ok(OpenLane { work, dead })
    }

    /// A new channel, on a new connection if the old one is of no more use.
    async fn channel(&self) -> Result<Channel, QueueError> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held
            .as_ref()
            .filter(|connection| connection.status().connected())
            && let Ok(Ok(channel)) = bounded(connection.create_channel()).await
        {
            return Ok(channel);
        }
        *held = None;
        let connection = held.insert(Arc::new(self.target.connect("consume").await?));
        bounded(connection.create_channel())
            .await?
            .map_err(|error| describe(&error))
    }

    pub(super) async fn release(&self, lane: Lane) {
        let state = &self.lanes[lane as usize];
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
            // Without a receiver waiting, the next one must find the lane closed.
            if let Ok(mut open) = state.open.try_lock() {
                *open = None;
            }
        }
    }

    pub(super) async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions::durable().passive();
        let declared =
            bounded(channel.queue_declare(queue_name(lane).into(), passive, FieldTable::default()))
                .await?;
        let messages = declared.map_err(|error| describe(&error))?.message_count();
        let _ = bounded(channel.close(200, "asked".into())).await;
        Ok(Depth {
            messages: u64::from(messages),
        })
    }
}

impl OpenLane {
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
        jobs: decode(&delivery.data),
        attempt,
        receipt: AnyReceipt::RabbitMq(receipt),
    }
}

/// The right to acknowledge one message.
#[derive(Debug)]
pub(in crate::queue) struct Receipt {
    acker: Option<Acker>,
}

impl Receipt {
    pub(in crate::queue) async fn ack(mut self) -> Result<(), QueueError> {
        let Some(acker) = self.acker.take() else {
            return Err(QueueError::Lost);
        };
        match bounded(acker.ack(BasicAckOptions::default())).await? {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(QueueError::Lost),
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let Some(acker) = self.acker.take().filter(Acker::usable) else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // If this fails the channel is gone, and the broker has given the message back.
                let _ = bounded(acker.reject(BasicRejectOptions { requeue: true })).await;
            });
        }
    }
}
