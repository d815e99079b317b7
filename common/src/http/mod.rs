//! Serves HTTP: an accept loop with the limits that `axum::serve` does not set, and the routes of
//! the private listener that every role has.
//!
//! Invariant: the number of open connections is limited, and a new connection always gets a place
//! (see `connections`). A client that sends its headers slowly, or that does not read its answers,
//! is disconnected.

mod connections;

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
pub use connections::raise_open_file_limit;
use connections::{Connections, Place, available_places};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use model::queue_name::QueueName;
use tokio::net::{TcpListener, TcpStream};

use crate::lifecycle::Lifecycle;
use crate::queue::Queue;
use crate::records::connection;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

/// How long a connection may take to send the headers of a request, including the idle time after
/// the previous request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many headers a request may have.
const MAX_HEADERS: usize = 64;
/// The size of the read buffer of a connection, in bytes. The request line and the headers must
/// fit.
const BUFFER_SIZE: usize = 16 * 1024;
/// How long sent bytes may wait until a client receives them (`TCP_USER_TIMEOUT`). hyper sets no
/// timeout for writing. Only Linux has this option.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long open requests may take after the process has begun to stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `/metrics` waits for the length of a queue. After that the gauge keeps its last value.
const QUEUE_DEPTH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the metrics wait for the numbers of connections and Pages.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// The address from which a connection was made: that of the client, or of a proxy. Each request
/// has it as an extension.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub IpAddr);

/// The place of the connection of a request. Each request has it as an extension.
#[derive(Debug, Clone)]
pub struct ConnectionPlace(Arc<Place>);

impl ConnectionPlace {
    /// Keeps the connection open until the request is answered, also if new connections need places.
    /// A handler calls it after it has verified the signature of the request.
    pub fn hold(&self) {
        self.0.hold();
    }

    /// Records a use of the connection, so that it does not lose its place to a new one soon. A handler
    /// calls it when it has sent a part of a long answer.
    pub fn record_use(&self) {
        self.0.record_answer();
    }
}

/// Returns how many connections of a listener may wait for a long answer. The others are for short ones.
pub fn max_long_answers() -> usize {
    available_places() / 2
}

/// Serves `router` until the process stops, then waits up to ten seconds for open requests to
/// finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    lifecycle: Lifecycle,
) -> Result<(), Infallible> {
    let connections = Connections::new(available_places());
    serve_with(listener, router, lifecycle, connections, UNREAD_TIMEOUT).await;
    Ok(())
}

/// Serves `router`, as [`serve`] does, with the places of `connections`. A connection is closed if its
/// client receives nothing for `unread_timeout`.
async fn serve_with(
    listener: TcpListener,
    router: Router,
    lifecycle: Lifecycle,
    connections: Arc<Connections>,
    unread_timeout: Duration,
) {
    let graceful = GracefulShutdown::new();
    let service = TowerToHyperService::new(router);
    loop {
        let (stream, peer) = tokio::select! {
            () = lifecycle.stopping() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => (stream, PeerAddress(peer.ip())),
                Err(error) => {
                    // The process is probably out of file descriptors. Connections that close
                    // release theirs, so the loop tries again.
                    tracing::warn!(error = %error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let place = Arc::new(connections.admit().await);
        set_options(&stream, unread_timeout);
        let answering = place.clone();
        let service = service_fn({
            let service = service.clone();
            move |mut request: hyper::Request<_>| {
                request.extensions_mut().insert(peer);
                let place = ConnectionPlace(answering.clone());
                request.extensions_mut().insert(place);
                let (response, place) = (service.call(request), answering.clone());
                async move {
                    let response = response.await;
                    place.record_answer();
                    response
                }
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(BUFFER_SIZE)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = connection => ended,
                () = place.displaced() => return,
            };
            if let Err(error) = ended {
                tracing::debug!(error = %error, "a connection ended with an error");
            }
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await;
}

/// Sets the options of an accepted socket. Errors are ignored: the connection may have ended, and it
/// works without the options.
fn set_options(stream: &TcpStream, unread_timeout: Duration) {
    // Nagle's algorithm would delay small responses.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let milliseconds = u32::try_from(unread_timeout.as_millis()).unwrap_or(u32::MAX);
        let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = unread_timeout;
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
    store: Option<Arc<dyn Store>>,
    ready: ReadinessCheck,
}

/// Returns the routes of the private listener: `/livez`, `/readyz` and `/metrics`. With a `store`, the
/// metrics include the numbers of connections and Pages.
pub fn private_router(
    metrics: Metrics,
    queue: Arc<dyn Queue>,
    store: Option<Arc<dyn Store>>,
    ready: ReadinessCheck,
) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Arc::new(PrivateState {
            metrics,
            queue,
            store,
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
    if let Some(store) = &state.store {
        // Without an answer the gauges keep their last values.
        let counted = tokio::time::timeout(STATUS_TIMEOUT, count_by_status(store, &state.metrics));
        if let Ok(Err(error)) = counted.await {
            tracing::warn!(error = %error, "the connections and Pages cannot be counted for the metrics");
        }
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(axum::http::header::CONTENT_TYPE, content_type)],
        state.metrics.text(),
    )
}

/// Sets the gauges of the connections and of the Pages with each status.
async fn count_by_status(store: &Arc<dyn Store>, metrics: &Metrics) -> Result<(), StoreError> {
    let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let connections = connection::list(&**store).await?;
    for status in connection::Status::ALL {
        let with_status = connections.iter().filter(|one| one.status == status);
        metrics
            .connections
            .set(status.as_str(), gauge(with_status.count() as u64));
    }
    for (status, n) in store.count_pages().await? {
        metrics.pages.set(status.as_str(), gauge(n));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::Extension;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;

    /// The client sends requests for as long as the server reads them, and never reads an answer.
    #[cfg(target_os = "linux")]
    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_reads_no_answer_is_disconnected() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "answer ".repeat(10_000)));
        let lifecycle = Lifecycle::default();
        let timeout = Duration::from_millis(500);
        let connections = Connections::new(1);
        let server = serve_with(listener, router, lifecycle.clone(), connections, timeout);
        let server = tokio::spawn(server);
        let mut client = TcpStream::connect(address).await.unwrap();
        let requests = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
        let disconnected = async { while client.write_all(requests.as_bytes()).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(60), disconnected)
            .await
            .unwrap();
        lifecycle.stop();
        server.await.unwrap();
    }

    /// The listener has two places. While one request is under way, ten other clients connect.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_holds_its_place_is_answered_although_others_need_places() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (started, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let slow = {
            let (started, may_end) = (started.clone(), may_end.clone());
            async move |Extension(place): Extension<ConnectionPlace>| {
                place.hold();
                started.notify_one();
                may_end.notified().await;
                "done"
            }
        };
        let quick = get(async || "quick");
        let router = Router::new().route("/slow", get(slow)).route("/", quick);
        let (lifecycle, connections) = (Lifecycle::default(), Connections::new(2));
        let server = serve_with(
            listener,
            router,
            lifecycle.clone(),
            connections,
            UNREAD_TIMEOUT,
        );
        let server = tokio::spawn(server);
        let request = async |path: &str| {
            let mut client = TcpStream::connect(address).await.unwrap();
            let text = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            client.write_all(text.as_bytes()).await.unwrap();
            client
        };
        // Returns whether the answer has this body, and not the end of the connection.
        let is_answered = async |client: &mut TcpStream, body: &str| {
            let mut answer = String::new();
            while !answer.ends_with(body) {
                let mut buffer = [0; 1024];
                let read = client.read(&mut buffer).await.unwrap_or(0);
                answer.push_str(&String::from_utf8_lossy(&buffer[..read]));
                if read == 0 {
                    return false;
                }
            }
            true
        };
        let mut slow = request("/slow").await;
        started.notified().await;
        let mut others = Vec::new();
        for _ in 0..10 {
            let mut other = request("/").await;
            assert!(is_answered(&mut other, "quick").await);
            others.push(other);
        }
        may_end.notify_one();
        assert!(is_answered(&mut slow, "done").await);
        drop((slow, others));
        lifecycle.stop();
        server.await.unwrap();
    }
}
