//! Everything that the task of alerts uses.
//!
//! Invariant: a process creates one [`AlertContext`].

use std::sync::Arc;

use common::backends::Backends;
use common::clock::Clock;
use common::config::Config;
use common::lifecycle::process_name;
use common::queue::Queue;
use common::store::Store;
use common::telemetry::Metrics;

/// Everything that the task of alerts uses.
#[derive(Debug, Clone)]
pub struct AlertContext {
    /// The configuration, for addresses and the names of what is configured.
    pub config: Arc<Config>,
    /// The queue, which is checked.
    pub queue: Arc<dyn Queue>,
    /// The store, in which problems are found.
    pub store: Arc<dyn Store>,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// This host's clock.
    pub clock: Clock,
    /// A name that no other process has.
    pub process: Arc<str>,
}

impl AlertContext {
    /// Returns the context of a process.
    pub fn new(config: &Config, backends: &Backends, metrics: Metrics, clock: Clock) -> Self {
        Self {
            config: Arc::new(config.clone()),
            queue: backends.queue.clone(),
            store: backends.store.clone(),
            metrics,
            clock,
            process: process_name(),
        }
    }
}
