//! What the handlers of ingress share.

use std::sync::Arc;

use common::clock::Clock;
use common::config::Config;
use common::queue::Queue;
use common::telemetry::Metrics;
use secrecy::SecretString;

use crate::oauth::context::OAuth;
use crate::refusals::RefusalLog;

/// What ingress works with.
#[derive(Debug)]
pub struct Context {
    /// Where jobs become durable.
    pub queue: Arc<dyn Queue>,
    /// Counts.
    pub metrics: Metrics,
    /// Stamps what is received.
    pub clock: Clock,
    /// The app secret, and during a rotation the previous one.
    pub app_secrets: Vec<SecretString>,
    /// The token of the handshake.
    pub verify_token: SecretString,
    /// Whether the legacy signature alone is enough.
    pub allow_sha1: bool,
    /// Webhooks without the signature that is asked for, or with a wrong one.
    pub unsigned_log: RefusalLog,
    /// Handshakes with another token.
    pub wrong_token_log: RefusalLog,
    /// Logins.
    pub oauth: OAuth,
    /// Where people see this deployment, without a path.
    pub origin: String,
}

impl Context {
    /// The context a configuration asks for.
    pub fn new(
        config: &Config,
        queue: Arc<dyn Queue>,
        oauth: OAuth,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        Self {
            oauth,
            queue,
            metrics,
            clock,
            app_secrets: config.app_secrets.clone(),
            origin: config.origin().to_owned(),
            verify_token: config.verify_token.clone(),
            allow_sha1: config.allow_sha1,
            unsigned_log: RefusalLog::new(
                "webhooks refused: X-Hub-Signature-256 is missing or does not fit FACEBOOK_APP_SECRET",
            ),
            wrong_token_log: RefusalLog::new(
                "handshakes refused: hub.verify_token is not FACEBOOK_VERIFY_TOKEN",
            ),
        }
    }
}
