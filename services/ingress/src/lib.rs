//! The public face: takes what Facebook signs and makes it durable; sends people to Facebook's dialog
//! and takes them back.
//!
//! Invariants: no answer 200 to an event that applies before the queue says it is durable; the
//! webhook path knows the queue and nothing else, no store, no token; tokens are sealed here and
//! never opened. Must not: echo input, log a body, serve anything to an operator.

pub mod erasure;
pub mod handshake;
pub mod oauth;
pub mod refusals;
pub mod signature;
pub mod webhook;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use common::clock::Clock;
use common::config::Config;
use common::http;
use common::lifecycle::Lifecycle;
use common::queue::Queue;
use common::telemetry::Metrics;
use oauth::OAuth;
use refusals::Refusals;
use secrecy::SecretString;
use tokio::net::TcpListener;

/// What ingress works with.
#[derive(Debug)]
pub struct Parts {
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
    pub unsigned: Refusals,
    /// Handshakes with another token.
    pub wrong_token: Refusals,
    /// Logins.
    pub oauth: OAuth,
    /// Where people see this deployment, without a path.
    pub origin: String,
}

impl Parts {
    /// The parts a configuration asks for.
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
            unsigned: Refusals::new(
                "webhooks refused: X-Hub-Signature-256 is missing or does not fit FACEBOOK_APP_SECRET",
            ),
            wrong_token: Refusals::new(
                "handshakes refused: hub.verify_token is not FACEBOOK_VERIFY_TOKEN",
            ),
        }
    }
}

/// The routes of the public listener.
pub fn router(parts: Parts) -> Router {
    let webhook = get(handshake::verify).post(webhook::receive);
    Router::new()
        .route(
            "/",
            get(async || axum::Json(serde_json::json!({"status": "ok"}))),
        )
        .route("/livez", get(async || "ok\n"))
        .route("/facebook/webhook", webhook)
        .route("/facebook/login", get(oauth::login::begin))
        .route("/facebook/callback", get(oauth::callback::end))
        .route("/facebook/deauthorize", post(erasure::deauthorize))
        .route("/facebook/data-deletion", post(erasure::delete))
        .route("/facebook/data-deletion/{code}", get(erasure::show))
        .with_state(Arc::new(parts))
}

/// Serves until the process is asked to end.
pub async fn run(parts: Parts, listener: TcpListener, lifecycle: Lifecycle) -> Result<(), String> {
    http::serve(listener, router(parts), lifecycle).await
}
