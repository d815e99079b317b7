//! The queue on RabbitMQ: durable quorum queues behind the default exchange.
//!
//! What we hold to, because the broker and lapin demand it (ARCHITECTURE.md has the reasons):
//! publish and consume on separate connections; one message in flight per channel; success is a
//! positive confirm without a returned message and nothing else; our own deadline on every await;
//! no recovery inside lapin, a broken connection is dropped with everything on it.

mod connection;
mod consume;
mod deadline;
mod publish;
pub(in crate::queue) mod receipt;
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
use connection::Target;
use consume::Consumers;
use publish::Publisher;

/// The queue of a distributed deployment.
#[derive(Debug)]
pub struct RabbitMq {
    target: Arc<Target>,
    /// Started when first needed: a worker publishes nothing and keeps no connection for it.
    publisher: OnceLock<Publisher>,
    consumers: Consumers,
    ended: CancellationToken,
}

impl RabbitMq {
    /// Uses the broker at `uri` (`amqp://user:password@host:5672/vhost`). Declares the queues; fails
    /// only if they exist with other settings. A broker that is away is waited for in the background.
    pub async fn open(uri: &str, role: &str) -> Result<Self, QueueError> {
        let target = Arc::new(Target::new(uri, role)?);
        match target.connect_and_declare("check").await {
            Ok(connection) => connection::close(&connection).await,
            Err(error @ QueueError::Mismatch(_)) => return Err(error),
            Err(error) => tracing::warn!(error = %error, "the broker does not answer yet"),
        }
        Ok(Self {
            publisher: OnceLock::new(),
            consumers: Consumers::new(target.clone()),
            target,
            ended: CancellationToken::new(),
        })
    }

    /// Cancelled when the publishing task has ended: by a panic, or because this was dropped.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    fn publisher(&self) -> &Publisher {
        let start = || Publisher::start(self.target.clone(), self.ended.clone());
        self.publisher.get_or_init(start)
    }
}

#[async_trait]
impl Queue for RabbitMq {
    async fn publish(&self, queue_name: QueueName, jobs: &[Job]) -> Result<(), QueueError> {
        let answers = split_into_messages(queue_name, jobs)
            .into_iter()
            .map(|group| self.publisher().submit(queue_name, group));
        let all = futures_util::future::join_all(answers.collect::<Vec<_>>());
        let late = || QueueError::Unavailable("no confirm in time".to_owned());
        let answers = tokio::time::timeout(PUBLISH_DEADLINE, all)
            .await
            .map_err(|_| late())?;
        answers
            .into_iter()
            .try_for_each(|answer| answer.unwrap_or_else(|_| Err(late())))
    }

    async fn receive(&self, queue_name: QueueName) -> Result<Delivery, QueueError> {
        self.consumers.receive(queue_name).await
    }

    async fn requeue(&self, queue_name: QueueName) -> Result<(), QueueError> {
        self.consumers.release(queue_name).await;
        Ok(())
    }

    async fn depth(&self, queue_name: QueueName) -> Result<Depth, QueueError> {
        self.consumers.depth(queue_name).await
    }

    fn is_ready(&self) -> bool {
        self.publisher().is_up()
    }
}
