//! A program that receives posts: it records each request and answers as the test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value as Json;
use tokio::net::TcpListener;

use super::eventually;

/// How a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With this status.
    Status(u16),
    /// With a redirect to another path of the receiver.
    Redirect,
    /// Not at all.
    Never,
    /// With 200 until the receiver has got this number of requests, then not at all.
    FirstOnly(usize),
}

/// A request that a receiver got.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// The path and the query.
    pub(crate) path: String,
    /// The headers, with names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// The body.
    pub(crate) body: String,
}

impl Received {
    /// Returns the body as JSON.
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap()
    }
}

#[derive(Debug)]
struct Inner {
    answer: Mutex<Answer>,
    received: Mutex<Vec<Received>>,
}

/// A running receiver.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    /// The address to post to.
    pub(crate) url: String,
    inner: Arc<Inner>,
}

impl Receiver {
    /// Starts a receiver that accepts everything. It runs until the test ends.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "http://{}/changes?secret=in-the-address",
            listener.local_addr().unwrap()
        );
        let inner = Arc::new(Inner {
            answer: Mutex::new(Answer::Status(200)),
            received: Mutex::default(),
        });
        let router = Router::new().fallback(receive).with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, inner }
    }

    /// Sets how further requests are answered.
    pub(crate) fn answer(&self, answer: Answer) {
        *self.inner.answer.lock().unwrap() = answer;
    }

    /// Returns the requests so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.inner.received.lock().unwrap().clone()
    }

    /// Returns the requests so far and forgets them.
    pub(crate) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.inner.received.lock().unwrap())
    }

    /// Forgets the requests so far.
    pub(crate) fn forget(&self) {
        self.inner.received.lock().unwrap().clear();
    }

    /// Waits until the receiver has got `n` requests, and returns them.
    pub(crate) async fn wait_for(&self, n: usize) -> Vec<Received> {
        eventually("a request to the receiver", || async {
            let received = self.received();
            (received.len() >= n).then_some(received)
        })
        .await
    }
}

async fn receive(
    State(inner): State<Arc<Inner>>,
    uri: axum::http::Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        (name.to_string(), value.to_str().unwrap_or("").to_owned())
    };
    let received = Received {
        path: uri.to_string(),
        headers: headers.iter().map(text).collect(),
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    let count = {
        let mut all = inner.received.lock().unwrap();
        all.push(received);
        all.len()
    };
    let answer = *inner.answer.lock().unwrap();
    match answer {
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::Redirect => (
            StatusCode::TEMPORARY_REDIRECT,
            [(header::LOCATION, "/elsewhere")],
        )
            .into_response(),
        Answer::FirstOnly(first) if count <= first => StatusCode::OK.into_response(),
        Answer::Never | Answer::FirstOnly(_) => std::future::pending().await,
    }
}
