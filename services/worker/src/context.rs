//! The context of a worker: its queue, store and client of Graph, and its settings.
//!
//! Invariant: a process creates one [`Context`], and each task works with a clone of it. It holds
//! no state of a job.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use common::backends::Backends;
use common::clock::Clock;
use common::config::Config;
use common::config::forward::ForwardConfig;
use common::daily_schedule::DailySchedule;
use common::graph::client::Graph;
use common::graph::error::GraphError;
use common::key_file::{Keyring, open_key_file};
use common::lifecycle::{Lifecycle, process_name};
use common::log_limit::LogLimit;
use common::queue::Queue;
use common::sealing::SealingError;
use common::store::Store;
use common::telemetry::Metrics;
use model::field::TrackedFields;
use secrecy::SecretString;

/// Everything that the jobs of a worker use.
#[derive(Debug, Clone)]
pub struct Context {
    /// The queue from which jobs are received.
    pub queue: Arc<dyn Queue>,
    /// The store to which jobs are applied.
    pub store: Arc<dyn Store>,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// This host's clock.
    pub clock: Clock,
    /// The fields of Pages that are stored.
    pub tracked_fields: TrackedFields,
    /// How long after a notification its verification read is due.
    pub verify_after: Duration,
    /// How many polls of each queue are made at a time.
    pub poll_concurrency: u16,
    /// A name that no other process has. It marks the dead letters that this process is
    /// retrying, and its trials of jobs.
    pub process: Arc<str>,
    /// Held during the trial of a job that is not a poll, of which a process has at most one.
    pub trial_turn: Arc<tokio::sync::Mutex<()>>,
    /// The last hour of which it is recorded that webhooks arrived.
    pub webhook_hour: Arc<AtomicU64>,
    /// Limits the log lines about a queue that cannot be reached, which every consumer meets.
    pub receive_errors: Arc<LogLimit>,
    /// The client of Graph.
    pub graph: Graph,
    /// The private keys that open tokens.
    pub keyring: Keyring,
    /// The schedule of the daily polls: the local days and their daily slots.
    pub daily_schedule: DailySchedule,
    /// The webhook fields that the app and each Page are subscribed to.
    pub webhook_fields: Vec<String>,
    /// The program to which deliveries are forwarded.
    pub forward: Option<ForwardConfig>,
    /// The callback that the app subscription should have.
    pub callback: AppCallback,
    /// The lifecycle of the process. A connection poll stops early when the process is stopping.
    pub lifecycle: Lifecycle,
}

/// The callback that the app subscription should have.
#[derive(Debug, Clone)]
pub struct AppCallback {
    /// The address to which Facebook posts webhooks.
    pub address: String,
    /// The token that Facebook repeats when it verifies the address.
    pub verify_token: SecretString,
    /// Whether an app subscription with another address is replaced.
    pub replace: bool,
    /// Whether another program receives the webhooks and passes them on.
    pub is_passed_on: bool,
}

/// An error that prevents the creation of a [`Context`].
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The key file cannot be used.
    #[error(transparent)]
    Keys(#[from] SealingError),
    /// The client of Graph cannot be created.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl Context {
    /// Creates the context for a configuration. Fails if the key file cannot be used or if the
    /// client of Graph cannot be created.
    pub fn new(
        config: &Config,
        backends: &Backends,
        metrics: Metrics,
        clock: Clock,
        lifecycle: Lifecycle,
    ) -> Result<Self, ContextError> {
        let keyring = match config.token_private_keys.clone() {
            Some(keys) => Keyring::Configured(keys),
            None => open_key_file(&config.data_dir)?,
        };
        Ok(Self {
            queue: backends.queue.clone(),
            store: backends.store.clone(),
            metrics,
            graph: Graph::new(config, clock.clone())?,
            clock,
            tracked_fields: config.tracked_fields.clone(),
            verify_after: config.verify_after,
            poll_concurrency: config.poll_concurrency,
            process: process_name(),
            trial_turn: Arc::default(),
            webhook_hour: Arc::default(),
            receive_errors: Arc::default(),
            keyring,
            daily_schedule: config.daily_schedule.clone(),
            webhook_fields: config.webhook_fields(),
            forward: config.forward.clone(),
            callback: AppCallback {
                address: config.webhook_address.clone().unwrap_or_default(),
                verify_token: config.verify_token.clone(),
                replace: config.replace_callback,
                is_passed_on: config.webhooks_passed_on,
            },
            lifecycle,
        })
    }
}
