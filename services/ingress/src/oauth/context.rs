//! What the handlers of logins share, and how many logins may be under way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use common::clock::Clock;
use common::config::Config;
use common::graph::client::Graph;
use common::graph::error::GraphError;
use common::lifecycle::Lifecycle;
use common::sealing::{self, Sealer, SealingError};
use common::store::Store;
use common::telemetry::Metrics;
use model::time::HostTime;
use tokio::sync::Semaphore;

/// What logins need.
#[derive(Debug)]
pub struct OAuth {
    pub(crate) store: Arc<dyn Store>,
    pub(super) graph: Graph,
    pub(super) sealer: Sealer,
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    /// Our own public listener, for the probe.
    pub(super) own: SocketAddr,
    pub(super) http: reqwest::Client,
    /// Nobody is kept waiting when the process ends.
    pub(super) lifecycle: Lifecycle,
    pub(super) crowd: Crowd,
}

/// What anybody may make us do: each login is a record, each callback many looks at the store.
#[derive(Debug)]
pub(super) struct Crowd {
    /// The second, and how many logins began in it.
    // Tiny critical sections, never across an await.
    begun: Mutex<(u64, u32)>,
    /// Callbacks that are followed at the same time.
    pub(super) followers: Semaphore,
}

/// Logins that may begin in one second.
const LOGINS_A_SECOND: u32 = 50;
/// Callbacks followed at the same time.
const FOLLOWERS: usize = 64;

impl Crowd {
    /// Whether one more login may begin now.
    pub(super) fn admits(&self, now: HostTime) -> bool {
        let second = now.0 / 1000;
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.0 != second {
            *begun = (second, 0);
        }
        begun.1 += 1;
        begun.1 <= LOGINS_A_SECOND
    }
}

/// Why the context of logins cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The key file cannot be used.
    #[error(transparent)]
    Keys(#[from] SealingError),
    /// The client of Graph cannot be made.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl OAuth {
    /// What a configuration asks for. `own` is where the public listener is.
    pub fn new(
        config: &Config,
        store: Arc<dyn Store>,
        metrics: Metrics,
        clock: Clock,
        mut own: SocketAddr,
        lifecycle: Lifecycle,
    ) -> Result<Self, ContextError> {
        let sealer = match (&config.token_public_key, &config.token_private_keys) {
            (Some(key), _) => Sealer::PublicKey(key.clone()),
            (None, Some(keys)) => Sealer::PublicKey(keys.current().clone()),
            (None, None) => Sealer::Keyring(sealing::open_key_file(&config.data_dir)?),
        };
        if own.ip().is_unspecified() {
            own.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Ok(Self {
            graph: Graph::new(config, clock.clone())?,
            http: reqwest::Client::new(),
            lifecycle,
            crowd: Crowd {
                begun: Mutex::default(),
                followers: Semaphore::new(FOLLOWERS),
            },
            config: config.clone(),
            store,
            sealer,
            clock,
            metrics,
            own,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_logins_is_admitted_by_the_second() {
        let crowd = Crowd {
            begun: Mutex::default(),
            followers: Semaphore::new(FOLLOWERS),
        };
        let admitted = |now: u64| (0..200).filter(|_| crowd.admits(HostTime(now))).count();
        assert_eq!(admitted(5000), 50);
        assert_eq!(admitted(5999), 0);
        assert_eq!(admitted(6000), 50);
    }
}
