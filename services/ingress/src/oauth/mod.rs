//! Logins: a person allows the app to see their Pages, and comes back with a code.
//!
//! Invariants: a state works once, for ten minutes, in the browser that began; a code is exchanged
//! only for such a state; the token that comes of it is sealed before it is stored and never answered.
//! Must not: open a token, log a query, echo input unescaped.

pub mod answer;
pub mod callback;
pub mod login;
pub mod probe;
mod progress;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, header};
use common::clock::Clock;
use common::config::Config;
use common::custody::{self, Sealer};
use common::graph::Graph;
use common::lifecycle::Lifecycle;
use common::store::Store;
use common::telemetry::Metrics;
use model::time::Millis;
use tokio::sync::Semaphore;

/// The cookie that binds a login to the browser it began in.
const COOKIE: &str = "pagesync_login";

/// What logins need.
#[derive(Debug)]
pub struct OAuth {
    pub(crate) store: Arc<dyn Store>,
    graph: Graph,
    sealer: Sealer,
    config: Config,
    clock: Clock,
    metrics: Metrics,
    /// Our own public listener, for the probe.
    own: SocketAddr,
    http: reqwest::Client,
    /// Nobody is kept waiting when the process ends.
    lifecycle: Lifecycle,
    crowd: Crowd,
}

/// What anybody may make us do: each login is a record, each callback many looks at the store.
#[derive(Debug)]
struct Crowd {
    /// The second, and how many logins began in it.
    // Tiny critical sections, never across an await.
    begun: Mutex<(u64, u32)>,
    /// Callbacks that are followed at the same time.
    followers: Semaphore,
}

/// Logins that may begin in one second.
const LOGINS_A_SECOND: u32 = 50;
/// Callbacks followed at the same time.
const FOLLOWERS: usize = 64;

impl Crowd {
    /// Whether one more login may begin now.
    fn admits(&self, now: Millis) -> bool {
        let second = now.0 / 1000;
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.0 != second {
            *begun = (second, 0);
        }
        begun.1 += 1;
        begun.1 <= LOGINS_A_SECOND
    }
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
    ) -> Result<Self, String> {
        let sealer = match (&config.token_public, &config.token_keys) {
            (Some(key), _) => Sealer::Given(key.clone()),
            (None, Some(keys)) => Sealer::Given(keys.current().clone()),
            (None, None) => Sealer::Ring(
                custody::key_file(&config.data_dir).map_err(|error| error.to_string())?,
            ),
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

/// The value of our cookie, if the browser sent one of its form.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let mut pairs = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == COOKIE)?;
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (value.len() == 43 && value.bytes().all(harmless)).then_some(value)
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
        let admitted = |now: u64| (0..200).filter(|_| crowd.admits(Millis(now))).count();
        assert_eq!(admitted(5000), 50);
        assert_eq!(admitted(5999), 0);
        assert_eq!(admitted(6000), 50);
    }
}
