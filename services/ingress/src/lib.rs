//! Ingress serves the public endpoints: it receives webhooks and erasure requests from Facebook,
//! and logs people in.
//!
//! Invariants: a webhook is answered with 200 only after the queue has made its jobs durable. The
//! webhook handler uses the queue and nothing else: no store and no token. Tokens and forwarded
//! deliveries are sealed here and never opened. Input is echoed only if it is escaped or has only letters, digits, `_` and
//! `-`. No body is logged, and no endpoint is for operators.

pub mod body;
pub mod client;
pub mod context;
pub mod dropped;
pub mod erasure;
pub mod forwarding;
pub mod handshake;
mod html;
pub mod oauth;
pub mod refusals;
pub mod signature;
pub mod webhook;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use common::config::{CALLBACK_PATH, WEBHOOK_PATH};
use common::http;
use common::lifecycle::Lifecycle;
use context::Context;
use tokio::net::TcpListener;

/// Returns the routes of the public listener. If the public address or the webhook address has a
/// path, the routes are served below this path as well, for a proxy that passes it on.
pub fn router(context: Arc<Context>) -> Router {
    let paths = context.login.public_paths();
    let mut router = Router::new()
        .route(
            "/",
            get(async || axum::Json(serde_json::json!({"status": "ok"}))),
        )
        .route("/livez", get(async || "ok\n"))
        .merge(facebook_routes());
    for path in paths.iter().filter(|path| !path.is_empty()) {
        router = router.nest(path, facebook_routes());
    }
    router.with_state(context)
}

/// Returns the routes that Facebook and people's browsers use.
fn facebook_routes() -> Router<Arc<Context>> {
    let webhook = get(handshake::verify).post(webhook::receive);
    Router::new()
        .route(WEBHOOK_PATH, webhook)
        .route("/facebook/login", get(oauth::login::redirect_to_dialog))
        .route(CALLBACK_PATH, get(oauth::callback::handle_callback))
        .route("/facebook/deauthorize", post(erasure::deauthorize))
        .route("/facebook/data-deletion", post(erasure::request_deletion))
        .route("/facebook/data-deletion/{code}", get(erasure::show_receipt))
}

/// Serves the public routes on `listener` until the process is stopping.
pub async fn run(
    context: Context,
    listener: TcpListener,
    lifecycle: Lifecycle,
) -> Result<(), Infallible> {
    let context = Arc::new(context);
    let counting = dropped::store_counts(&context.dropped, &context.login);
    let serving = http::serve(listener, router(context.clone()), lifecycle);
    tokio::join!(serving, counting).0
}
