//! Serving HTTP: our own accept loop with the limits that `axum::serve` does not set, and the
//! private listener every role has.
//!
//! Invariant: a connection is accepted only when there is room for it, and none can hold its place
//! by sending slowly.

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

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 4096;
/// From the first byte a connection waits for to the end of the headers; also how long it may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADERS: usize = 64;
/// The head of a request must fit; bodies pass through in pieces of this.
const BUFFER_SIZE: usize = 32 * 1024;
/// How long open requests may take once the process is asked to end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Serves until the process is asked to end, then lets open requests finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    lifecycle: Lifecycle,
) -> Result<(), Infallible> {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let service = TowerToHyperService::new(router);
    loop {
        let place = tokio::select! {
            () = lifecycle.stopping() => break,
            place = room.clone().acquire_owned() => {
                place.unwrap_or_else(|_| unreachable!("the semaphore is never closed"))
            }
        };
        let stream = tokio::select! {
            () = lifecycle.stopping() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: those in use come back.
                    tracing::warn!(error = %error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        // Without it small answers wait for the next packet.
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
                tracing::debug!(error = %error, "a connection ended badly");
            }
            drop(place);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, graceful.shutdown()).await;
    Ok(())
}

/// Why a role is not ready: the text that `/readyz` returns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub String);

/// Answers whether the role can do its work now, or what is in the way.
pub type ReadinessCheck =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), NotReady>> + Send>> + Send + Sync>;

struct PrivateState {
    metrics: Metrics,
    queue: Arc<dyn Queue>,
    ready: ReadinessCheck,
}

/// What every role serves on its private listener.
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

async fn readyz(State(private): State<Arc<PrivateState>>) -> impl IntoResponse {
    match (private.ready)().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics_text(State(private): State<Arc<PrivateState>>) -> impl IntoResponse {
    for queue_name in QueueName::ALL {
        let depth =
            tokio::time::timeout(Duration::from_secs(2), private.queue.depth(queue_name)).await;
        if let Ok(Ok(depth)) = depth {
            let messages = i64::try_from(depth.messages).unwrap_or(i64::MAX);
            private
                .metrics
                .queue_messages
                .set(queue_name.as_str(), messages);
        }
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(axum::http::header::CONTENT_TYPE, kind)],
        private.metrics.text(),
    )
}
