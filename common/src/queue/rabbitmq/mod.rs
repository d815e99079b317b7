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
mod topology;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use model::job::Job;
use model::lane::Lane;
use tokio_util::sync::CancellationToken;

use super::{Delivery, Depth, Queue, QueueError, groups};
use connection::Target;
use consume::Consumers;
pub(super) use consume::Receipt;
use publish::Publisher;

/// A publish is answered within this, whatever the broker does.
pub const PUBLISH_DEADLINE: Duration = Duration::from_millis(3500);

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
    async fn publish(&self, lane: Lane, jobs: &[Job]) -> Result<(), QueueError> {
        let answers = groups(lane, jobs)
            .into_iter()
            .map(|group| self.publisher().submit(lane, group));
        let all = futures_util::future::join_all(answers.collect::<Vec<_>>());
        let late = || QueueError::Unavailable("no confirm in time".to_owned());
        let answers = tokio::time::timeout(PUBLISH_DEADLINE, all)
            .await
            .map_err(|_| late())?;
        answers
            .into_iter()
            .try_for_each(|answer| answer.unwrap_or_else(|_| Err(late())))
    }

    async fn receive(&self, lane: Lane) -> Result<Delivery, QueueError> {
        self.consumers.receive(lane).await
    }

    async fn release(&self, lane: Lane) -> Result<(), QueueError> {
        self.consumers.release(lane).await;
        Ok(())
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        self.consumers.depth(lane).await
    }

    fn is_ready(&self) -> bool {
        self.publisher().is_up()
    }
}
