//! Opens the queue and the store of the configured backend.
//!
//! Invariant: apart from tests, no other module names a concrete type of queue or store.

use std::sync::Arc;

use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::config::backend::Backend;
use crate::database::{Access, Database, DatabaseError};
use crate::queue::Queue;
use crate::queue::embedded::EmbeddedQueue;
use crate::queue::error::QueueError;
use crate::queue::rabbitmq::RabbitMq;
use crate::store::embedded::EmbeddedStore;
use crate::store::redis::client::RedisStore;
use crate::store::{Store, StoreError, UnsafeSettings};

/// The queue and the store of a deployment.
#[derive(Debug, Clone)]
pub struct Backends {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// Cancelled when a task or thread of the queue or the store has ended. The process must then
    /// end.
    pub ended: CancellationToken,
}

/// The reason why the queue or the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The embedded database could not be opened.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The queue could not be opened.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The settings of the store forbid its use.
    #[error(transparent)]
    Settings(#[from] UnsafeSettings),
}

impl Backends {
    /// Returns backends with an open queue and an open store. Their `ended` is never cancelled.
    pub fn new(queue: Arc<dyn Queue>, store: Arc<dyn Store>) -> Self {
        Self {
            queue,
            store,
            ended: CancellationToken::new(),
        }
    }

    /// Opens the queue and the store. On the embedded backend both are in one file. `role` becomes
    /// part of the names of the connections to RabbitMQ.
    pub async fn open(
        config: &Config,
        role: &str,
        access: Access,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        match config.backend {
            Backend::Embedded => {
                let database = Arc::new(Database::open(&config.data_dir, access)?);
                let ended = database.ended();
                let queue = Arc::new(EmbeddedQueue::open(database.clone(), access).await?);
                let store = Arc::new(EmbeddedStore::new(database, clock));
                Ok(Self {
                    queue,
                    store,
                    ended,
                })
            }
            Backend::Distributed => {
                let queue = RabbitMq::open(
                    config.rabbitmq_url.expose_secret(),
                    role,
                    config.poll_concurrency,
                )
                .await?;
                let ended = queue.ended();
                let queue = Arc::new(queue);
                let url = config.redis_url.expose_secret();
                let store = Arc::new(RedisStore::open(url, config.redis_durability, clock)?);
                Ok(Self {
                    queue,
                    store,
                    ended,
                })
            }
        }
    }

    /// Checks the settings of the store. Logs each warning, and fails if the settings forbid its
    /// use. An unavailable store is only logged, because its users wait until it answers.
    pub async fn check(&self) -> Result<(), OpenError> {
        match self.store.check().await {
            Ok(health) => {
                for warning in &health.warnings {
                    tracing::warn!("{warning}");
                }
                Ok(health.into_result()?)
            }
            Err(error) => {
                tracing::warn!(error = %error, "the store does not answer yet");
                Ok(())
            }
        }
    }
}

/// Opens only the store, for commands that do not use the queue.
pub fn open_store(config: &Config, clock: Clock) -> Result<Arc<dyn Store>, OpenError> {
    Ok(match config.backend {
        Backend::Embedded => {
            let database = Database::open(&config.data_dir, Access::Shared)?;
            Arc::new(EmbeddedStore::new(Arc::new(database), clock))
        }
        Backend::Distributed => {
            let url = config.redis_url.expose_secret();
            Arc::new(RedisStore::open(url, config.redis_durability, clock)?)
        }
    })
}
