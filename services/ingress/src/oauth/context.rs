//! The state that the login handlers share, and the limits on logins.
//!
//! Invariant: the limits count for each client, so that no client keeps others from logging in.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use common::clock::Clock;
use common::config::{Config, LoginPolicy};
use common::graph::client::Graph;
use common::graph::error::GraphError;
use common::http::{PeerAddress, local_client};
use common::invitation::Invitation;
use common::lifecycle::Lifecycle;
use common::sealer::Sealer;
use common::sealing::SealingError;
use common::store::Store;
use common::telemetry::Metrics;
use ipnet::IpNet;
use model::time::HostTime;

use super::state::StateKeys;
use crate::client::{Client, RateLimiter};

/// The shared state of the login handlers.
#[derive(Debug)]
pub struct LoginContext {
    pub(crate) store: Arc<dyn Store>,
    pub(super) graph: Graph,
    pub(crate) sealer: Sealer,
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
    /// The keys of the states that browsers carry to the dialog and back.
    pub(super) state_keys: StateKeys,
}

/// The limits on logins in this process.
#[derive(Debug)]
pub(super) struct LoginLimits {
    /// How often a client may begin a login.
    pub(super) begun: RateLimiter,
    /// How often a client may use a state. This stores a record, and may call Facebook with the app
    /// secret.
    pub(super) used: RateLimiter,
    /// How many answers each client waits for. An answer reads the store repeatedly.
    // The lock is never held across an await.
    answers: Mutex<HashMap<Client, usize>>,
}

/// How many logins a client may begin at once, and how long it then waits for the next one. People
/// in one office are one client.
const BEGUN: (u32, Duration) = (60, Duration::from_secs(1));
/// How many states a client may use at once, and how long it then waits for the next one.
const USED: (u32, Duration) = (30, Duration::from_secs(2));
/// How many answers a client may wait for at the same time.
const MAX_ANSWERS_PER_CLIENT: usize = 16;
/// How many answers all clients together may wait for at the same time.
const MAX_ANSWERS: usize = 256;

/// The permission to wait for an answer. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct AnswerPermit<'a> {
    limits: &'a LoginLimits,
    client: Client,
}

impl LoginLimits {
    fn new() -> Self {
        Self {
            begun: RateLimiter::new(BEGUN.0, BEGUN.1),
            used: RateLimiter::new(USED.0, USED.1),
            answers: Mutex::default(),
        }
    }

    /// Returns the permission to wait for an answer, or `None` if the client, or all clients
    /// together, wait for too many.
    pub(super) fn admit_answer(&self, client: Client) -> Option<AnswerPermit<'_>> {
        let mut answers = self.lock_answers();
        let all: usize = answers.values().sum();
        let of_client = answers.get(&client).copied().unwrap_or(0);
        if all >= MAX_ANSWERS || of_client >= MAX_ANSWERS_PER_CLIENT {
            return None;
        }
        answers.insert(client, of_client + 1);
        Some(AnswerPermit {
            limits: self,
            client,
        })
    }

    fn lock_answers(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AnswerPermit<'_> {
    fn drop(&mut self) {
        let mut answers = self.limits.lock_answers();
        if let Some(of_client) = answers.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                answers.remove(&self.client);
            }
        }
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
        let (public, private) = (&config.token_public_key, &config.token_private_keys);
        let sealer = Sealer::new(public.as_ref(), private.as_ref(), &config.data_dir)?;
        if public_address.ip().is_unspecified() {
            public_address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Ok(Self {
            graph: Graph::new(config, clock.clone())?,
            http: local_client()?,
            lifecycle,
            limits: LoginLimits::new(),
            state_keys: StateKeys::new(config),
            config: config.clone(),
            store,
            sealer,
            clock,
            metrics,
            public_address,
        })
    }
}

impl LoginContext {
    /// Returns the lifecycle of the process.
    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Returns the present local day.
    pub(crate) fn local_day(&self) -> String {
        self.config.daily_schedule.local_day(self.clock.now())
    }

    /// Returns the paths of the public address and of the webhook address.
    pub(crate) fn public_paths(&self) -> BTreeSet<String> {
        let paths = [self.config.public_path(), self.config.webhook_path()];
        paths.map(ToOwned::to_owned).into()
    }

    /// Returns the networks of the proxies whose `X-Forwarded-For` is used.
    pub(crate) fn trusted_proxies(&self) -> &[IpNet] {
        &self.config.trusted_proxies
    }

    /// Returns the client to which a request counts.
    pub(super) fn client(&self, PeerAddress(peer): PeerAddress, headers: &HeaderMap) -> Client {
        Client::of_request(peer, headers, &self.config.trusted_proxies)
    }

    /// Returns the invitation in a text if it is valid at `now`.
    pub(super) fn invitation(&self, text: &str, now: HostTime) -> Option<Invitation> {
        let secret = self.config.invitation_secret.as_ref()?;
        Invitation::verify(secret, text, now)
    }

    /// Returns whether a login may begin with `invitation` at `now`. With [`LoginPolicy::Open`],
    /// every login may begin.
    pub(super) fn is_invited(&self, invitation: &str, now: HostTime) -> bool {
        self.config.login_policy == LoginPolicy::Open || self.invitation(invitation, now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_waits_for_many_answers_keeps_no_other_from_waiting() {
        let limits = LoginLimits::new();
        let client = |n: u32| {
            let address = std::net::Ipv4Addr::from_bits(n).into();
            Client::of_request(address, &HeaderMap::new(), &[])
        };
        let admitted: Vec<_> = (0..100)
            .map_while(|_| limits.admit_answer(client(1)))
            .collect();
        assert_eq!(admitted.len(), MAX_ANSWERS_PER_CLIENT);
        assert!(limits.admit_answer(client(2)).is_some());
        drop(admitted);
        assert!(limits.admit_answer(client(1)).is_some());
        assert!(limits.lock_answers().is_empty());
    }
}
