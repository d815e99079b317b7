//! The public face: takes what Facebook signs and makes it durable; sends people to Facebook's dialog
//! and takes them back.
//!
//! Invariants: no answer 200 to an event that applies before the queue says it is durable; the
//! webhook path knows the queue and nothing else, no store, no token; tokens are sealed here and
//! never opened. Must not: echo input, log a body, serve anything to an operator.

pub mod context;
pub mod erasure;
pub mod handshake;
pub mod oauth;
pub mod refusals;
pub mod signature;
pub mod webhook;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use common::http;
use common::lifecycle::Lifecycle;
use context::Context;
use tokio::net::TcpListener;

/// The routes of the public listener.
pub fn router(context: Context) -> Router {
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
        .with_state(Arc::new(context))
}

/// Serves until the process is asked to end.
pub async fn run(
    context: Context,
    listener: TcpListener,
    lifecycle: Lifecycle,
) -> Result<(), Infallible> {
    http::serve(listener, router(context), lifecycle).await
}
