//! The state that the handlers of ingress share.

use std::sync::Arc;

use common::clock::Clock;
use common::config::Config;
use common::queue::Queue;
use common::telemetry::Metrics;
use secrecy::SecretString;

use crate::body::BodyMemory;
use crate::dropped::DroppedParts;
use crate::forwarding::Forwarding;
use crate::oauth::context::LoginContext;
use crate::refusals::RefusalLog;

/// The shared state of the handlers.
#[derive(Debug)]
pub struct Context {
    /// The queue that makes jobs durable.
    pub queue: Arc<dyn Queue>,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// This host's clock.
    pub clock: Clock,
    /// The app secret and, during a rotation, the previous one.
    pub app_secrets: Vec<SecretString>,
    /// The token that Facebook sends in the handshake.
    pub verify_token: SecretString,
    /// Whether a SHA-1 signature alone is accepted.
    pub allow_sha1: bool,
    /// The memory of unfinished request bodies.
    pub body_memory: BodyMemory,
    /// The log of webhooks whose signature is missing or wrong.
    pub refused_webhooks: RefusalLog,
    /// The log of refused handshakes.
    pub refused_handshakes: RefusalLog,
    /// The parts of webhooks that were dropped.
    pub dropped: DroppedParts,
    /// The deliveries that the worker forwards; `None` if it forwards none.
    pub forwarding: Option<Forwarding>,
    /// The state of the login handlers.
    pub login: LoginContext,
    /// The public address of this deployment, as [`Config::public_url`].
    pub public_url: String,
}

impl Context {
    /// Returns the context for a configuration.
    pub fn new(
        config: &Config,
        queue: Arc<dyn Queue>,
        login: LoginContext,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        let forwarding = config.forward.as_ref();
        Self {
            forwarding: forwarding.map(|forward| Forwarding::new(forward, login.sealer.clone())),
            login,
            queue,
            metrics,
            clock,
            app_secrets: config.app_secrets.clone(),
            public_url: config.public_url().to_owned(),
            verify_token: config.verify_token.clone(),
            allow_sha1: config.allow_sha1,
            body_memory: BodyMemory::default(),
            dropped: DroppedParts::default(),
            refused_webhooks: RefusalLog::new(
                "webhooks refused: X-Hub-Signature-256 is missing or was not made with FACEBOOK_APP_SECRET",
            ),
            refused_handshakes: RefusalLog::new(
                "handshakes refused: hub.mode is not subscribe, or hub.verify_token is not FACEBOOK_VERIFY_TOKEN",
            ),
        }
    }
}
