//! Serves HTTP: an accept loop with the limits that `axum::serve` does not set, and the routes of
//! the private listener that every role has.
//!
//! Invariant: the number of open connections is limited, and a client that sends its headers slowly
//! is disconnected.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use model::queue_name::QueueName;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::lifecycle::Lifecycle;
use crate::queue::Queue;
use crate::telemetry::Metrics;

/// How many connections a listener serves at the same time. Others wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// How long a connection may take to send the headers of a request, including the idle time after
/// the previous request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many headers a request may have.
const MAX_HEADERS: usize = 64;
/// The size of the read buffer of a connection, in bytes. The request line and the headers must
/// fit.
const BUFFER_SIZE: usize = 32 * 1024;
/// How long open requests may take after the process has begun to stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `/metrics` waits for the length of a queue. After that the gauge keeps its last value.
const QUEUE_DEPTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves `router` until the process stops, then waits up to ten seconds for open requests to
/// finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    lifecycle: Lifecycle,
) -> Result<(), Infallible> {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let service = TowerToHyperService::new(router);
    loop {
        let permit = tokio::select! {
            () = lifecycle.stopping() => break,
            permit = permits.clone().acquire_owned() => {
                permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed"))
            }
        };
        let stream = tokio::select! {
            () = lifecycle.stopping() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // The process is probably out of file descriptors. Connections that close
                    // release theirs, so the loop tries again.
                    tracing::warn!(error = %error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        // Nagle's algorithm would delay small responses. An error is ignored, because it makes
        // responses only slower.
        let _ = stream.set_nodelay(true);
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(BUFFER_SIZE)
            .serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "a connection ended with an error");
            }
            drop(permit);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await;
    Ok(())
}

/// Returns a client for requests to this process or to another one on this host. It ignores the
/// proxy variables of the environment, because a proxy cannot reach these addresses. Fails if the
/// client cannot be built.
pub fn local_client() -> reqwest::Result<reqwest::Client> {
    crate::tls::install_provider();
    reqwest::Client::builder().no_proxy().build()
}

/// The reason why a role is not ready. `/readyz` returns its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub String);

/// A function that checks whether the role can do its work now.
pub type ReadinessCheck =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), NotReady>> + Send>> + Send + Sync>;

struct PrivateState {
    metrics: Metrics,
    queue: Arc<dyn Queue>,
    ready: ReadinessCheck,
}

/// Returns the routes of the private listener: `/livez`, `/readyz` and `/metrics`.
pub fn private_router(metrics: Metrics, queue: Arc<dyn Queue>, ready: ReadinessCheck) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Arc::new(PrivateState {
            metrics,
            queue,
            ready,
        }))
}

async fn readyz(State(state): State<Arc<PrivateState>>) -> impl IntoResponse {
    match (state.ready)().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics_text(State(state): State<Arc<PrivateState>>) -> impl IntoResponse {
    for queue_name in QueueName::ALL {
        let depth = tokio::time::timeout(QUEUE_DEPTH_TIMEOUT, state.queue.depth(queue_name)).await;
        if let Ok(Ok(depth)) = depth {
            let messages = i64::try_from(depth.messages).unwrap_or(i64::MAX);
            let queue_messages = &state.metrics.queue_messages;
            queue_messages.set(queue_name.as_str(), messages);
        }
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(axum::http::header::CONTENT_TYPE, content_type)],
        state.metrics.text(),
    )
}
