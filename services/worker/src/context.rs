//! What the context of a worker share.
//!
//! Invariant: a [`Parts`] is made once per process and cloned; it holds no state of its own.

use std::sync::Arc;
use std::time::Duration;

use common::backends::Backends;
use common::clock::Clock;
use common::config::Config;
use common::daily_schedule::DailySchedule;
use common::graph::client::Graph;
use common::graph::error::GraphError;
use common::lifecycle::Lifecycle;
use common::queue::Queue;
use common::sealing::{self, Keyring, SealingError};
use common::store::Store;
use common::telemetry::Metrics;
use model::field::TrackedFields;
use secrecy::SecretString;

/// What a worker works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where jobs come from.
    pub queue: Arc<dyn Queue>,
    /// Where Pages are.
    pub store: Arc<dyn Store>,
    /// Counts.
    pub metrics: Metrics,
    /// Stamps what is written.
    pub clock: Clock,
    /// Which fields are kept.
    pub tracked_fields: TrackedFields,
    /// How long after a notice a Page is verified.
    pub verify_after: Duration,
    /// Names this process among others, for the trials of dead letters.
    pub process: Arc<str>,
    /// Asks Facebook.
    pub graph: Graph,
    /// Opens tokens.
    pub keyring: Keyring,
    /// Local days and their slots.
    pub daily_schedule: DailySchedule,
    /// What Facebook is told of us.
    pub callback: AppCallback,
    /// Long walks end early when the process is asked to end.
    pub lifecycle: Lifecycle,
}

/// The app's subscription as it should be.
#[derive(Debug, Clone)]
pub struct AppCallback {
    /// Where webhooks go.
    pub address: String,
    /// What the handshake proves.
    pub verify_token: SecretString,
    /// Whether another address than ours is replaced.
    pub replace: bool,
}

/// A name no other process has.
pub fn process_name() -> Arc<str> {
    format!("{:016x}", fastrand::u64(..)).into()
}

/// Why a context cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The key file cannot be used.
    #[error(transparent)]
    Keys(#[from] SealingError),
    /// The client of Graph cannot be made.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl Context {
    /// The context a configuration asks for.
    pub fn new(
        config: &Config,
        backends: &Backends,
        metrics: Metrics,
        clock: Clock,
        lifecycle: Lifecycle,
    ) -> Result<Self, ContextError> {
        let keyring = match config.token_private_keys.clone() {
            Some(keys) => Keyring::Configured(keys),
            None => sealing::open_key_file(&config.data_dir)?,
        };
        Ok(Self {
            queue: backends.queue.clone(),
            store: backends.store.clone(),
            metrics,
            graph: Graph::new(config, clock.clone())?,
            clock,
            tracked_fields: config.tracked_fields.clone(),
            verify_after: config.verify_after,
            process: process_name(),
            keyring,
            daily_schedule: config.daily_schedule.clone(),
            callback: AppCallback {
                address: config.webhook_address.clone().unwrap_or_default(),
                verify_token: config.verify_token.clone(),
                replace: config.replace_callback,
            },
            lifecycle,
        })
    }
}
