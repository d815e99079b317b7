//! The state that the login handlers share, and the limits on logins.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use common::clock::Clock;
use common::config::Config;
use common::graph::client::Graph;
use common::graph::error::GraphError;
use common::http::local_client;
use common::lifecycle::Lifecycle;
use common::sealing::{self, Sealer, SealingError};
use common::store::Store;
use common::telemetry::Metrics;
use model::time::HostTime;
use tokio::sync::Semaphore;

/// The shared state of the login handlers.
#[derive(Debug)]
pub struct LoginContext {
    pub(crate) store: Arc<dyn Store>,
    pub(super) graph: Graph,
    pub(super) sealer: Sealer,
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    /// The address of the public listener of this process, to which the probe is posted.
    pub(super) public_address: SocketAddr,
    pub(super) http: reqwest::Client,
    /// The lifecycle of the process. An answer stops waiting for its login when the process is
    /// stopping.
    pub(super) lifecycle: Lifecycle,
    pub(super) limits: LoginLimits,
}

/// The limits on logins in this process. They protect the store, because anybody can begin a login,
/// which stores a record, and request its callback, which reads the store repeatedly.
#[derive(Debug)]
pub(super) struct LoginLimits {
    /// The current second, and how many logins were requested in it, including refused ones.
    // The lock is never held across an await.
    current_second: Mutex<(u64, u32)>,
    /// The permits to answer callbacks, at most [`MAX_CALLBACKS`] at the same time.
    pub(super) callbacks: Semaphore,
}

/// The maximum number of logins that begin in one second.
const MAX_LOGINS_PER_SECOND: u32 = 50;
/// The maximum number of callbacks that are answered at the same time.
const MAX_CALLBACKS: usize = 64;

impl LoginLimits {
    fn new() -> Self {
        Self {
            current_second: Mutex::default(),
            callbacks: Semaphore::new(MAX_CALLBACKS),
        }
    }

    /// Counts a login that is requested at `now`. Returns whether it may begin.
    pub(super) fn admit(&self, now: HostTime) -> bool {
        let second = now.0 / 1000;
        let mut current = self
            .current_second
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if current.0 != second {
            *current = (second, 0);
        }
        current.1 += 1;
        current.1 <= MAX_LOGINS_PER_SECOND
    }
}

/// An error that prevents the creation of a [`LoginContext`].
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The key file cannot be used.
    #[error(transparent)]
    Keys(#[from] SealingError),
    /// The client of Graph cannot be created.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The client of the webhook test cannot be created.
    #[error("cannot create the client of the webhook test: {0}")]
    LocalClient(#[from] reqwest::Error),
}

impl LoginContext {
    /// Returns the context for a configuration. `public_address` is the address of the public
    /// listener. Fails if the key file cannot be used or the client of Graph cannot be created.
    pub fn new(
        config: &Config,
        store: Arc<dyn Store>,
        metrics: Metrics,
        clock: Clock,
        mut public_address: SocketAddr,
        lifecycle: Lifecycle,
    ) -> Result<Self, ContextError> {
        let sealer = match (&config.token_public_key, &config.token_private_keys) {
            (Some(key), _) => Sealer::PublicKey(key.clone()),
            (None, Some(keys)) => Sealer::PublicKey(keys.current().clone()),
            (None, None) => Sealer::Keyring(sealing::open_key_file(&config.data_dir)?),
        };
        if public_address.ip().is_unspecified() {
            public_address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Ok(Self {
            graph: Graph::new(config, clock.clone())?,
            http: local_client()?,
            lifecycle,
            limits: LoginLimits::new(),
            config: config.clone(),
            store,
            sealer,
            clock,
            metrics,
            public_address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_fifty_logins_begin_in_one_second() {
        let limits = LoginLimits::new();
        let admitted = |now: u64| (0..200).filter(|_| limits.admit(HostTime(now))).count();
        assert_eq!(admitted(5000), 50);
        assert_eq!(admitted(5999), 0);
        assert_eq!(admitted(6000), 50);
    }
}
