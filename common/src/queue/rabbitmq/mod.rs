//! The queue on RabbitMQ: durable quorum queues behind the default exchange.
//!
//! Invariants, with their reasons in `docs/decisions.md`:
//!
//! - Publishers and consumers use separate connections.
//! - A channel has at most one unconfirmed message.
//! - A publish succeeds only with a positive publisher confirm and without a returned message.
//! - Every operation of the broker has a deadline that pagesync sets.
//! - The recovery of lapin is not used. A broken connection is dropped with all its channels.

pub(in crate::queue) mod ack_handle;
mod connection;
mod consume;
mod deadline;
mod probe;
mod publish;
mod topology;

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use model::job::Job;
use model::queue_name::QueueName;
use tokio_util::sync::CancellationToken;

use super::delivery::Delivery;
use super::error::QueueError;
use super::messages::split_into_messages;
use super::{Depth, PUBLISH_DEADLINE, Queue};
use connection::Broker;
use consume::Consumers;
use probe::Probe;
use publish::Publisher;

/// The queue of a distributed deployment.
#[derive(Debug)]
pub struct RabbitMq {
    broker: Arc<Broker>,
    /// Started at its first use. A worker publishes nothing and has no connection for publishing.
    publisher: OnceLock<Publisher>,
    consumers: Consumers,
    probe: Probe,
    ended: CancellationToken,
}

impl RabbitMq {
    /// Opens the queue on the broker at `uri` (`amqp://user:password@host:5672/vhost`) and declares
    /// its AMQP queues. `role` becomes part of the names of the connections, and
    /// `poll_concurrency` is the number of polls of each queue that the worker makes at a time. Fails if `uri` is
    /// malformed or if an AMQP queue exists with other arguments. If the broker does not answer, a
    /// later publish or receive connects to it.
    pub async fn open(uri: &str, role: &str, poll_concurrency: u16) -> Result<Self, QueueError> {
        let broker = Arc::new(Broker::new(uri, role)?);
        match broker.connect_and_declare("check").await {
            Ok(connection) => connection::close(&connection).await,
            Err(error @ QueueError::Mismatch(_)) => return Err(error),
            Err(error) => tracing::warn!(error = %error, "the broker does not answer yet"),
        }
        Ok(Self {
            publisher: OnceLock::new(),
            consumers: Consumers::new(broker.clone(), poll_concurrency),
            probe: Probe::new(broker.clone()),
            broker,
            ended: CancellationToken::new(),
        })
    }

    /// Returns a token that is cancelled when the publishing task has ended, by a panic or because
    /// the queue was dropped.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Returns the AMQP queues of an earlier version that exist at the broker at `uri`, each with its
    /// number of messages. Nothing consumes them. Fails if the broker does not answer.
    pub async fn leftover_queues(uri: &str) -> Result<Vec<(&'static str, u32)>, QueueError> {
        let connection = Broker::new(uri, "doctor")?.connect("check").await?;
        let found = topology::leftover_queues(&connection).await;
        connection::close(&connection).await;
        found
    }

    fn publisher(&self) -> &Publisher {
        let start = || Publisher::start(self.broker.clone(), self.ended.clone());
        self.publisher.get_or_init(start)
    }
}

#[async_trait]
impl Queue for RabbitMq {
    async fn publish(&self, queue_name: QueueName, jobs: &[Job]) -> Result<(), QueueError> {
        let results = split_into_messages(queue_name, jobs)
            .into_iter()
            .map(|group| self.publisher().submit(queue_name, group));
        let all = futures_util::future::join_all(results.collect::<Vec<_>>());
        let unconfirmed =
            || QueueError::Unavailable("the broker did not confirm the message".to_owned());
        let results = tokio::time::timeout(PUBLISH_DEADLINE, all)
            .await
            .map_err(|_| unconfirmed())?;
        results
            .into_iter()
            .try_for_each(|result| result.unwrap_or_else(|_| Err(unconfirmed())))
    }

    async fn receive(&self, queue_name: QueueName) -> Result<Delivery, QueueError> {
        self.consumers.receive(queue_name).await
    }

    fn start_receiving(&self) {
        self.consumers.set_stopped(false);
    }

    fn stop_receiving(&self) {
        self.consumers.set_stopped(true);
    }

    async fn requeue(&self, queue_name: QueueName) -> Result<(), QueueError> {
        self.consumers.requeue(queue_name).await;
        Ok(())
    }

    async fn depth(&self, queue_name: QueueName) -> Result<Depth, QueueError> {
        self.consumers.depth(queue_name).await
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.probe.check().await
    }

    fn is_ready(&self) -> bool {
        self.publisher().is_up()
    }
}
