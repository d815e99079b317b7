//! The HTTP client of Graph, which sends one request and reads its reply.
//!
//! Invariants: the token of the caller is sent in the `Authorization` header, never in the address.
//! A reply has a deadline and a size limit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hmac::Mac as _;
use reqwest::{Method, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value as Json;

use super::error::{self, ErrorKind, GraphError, RateLimitScope};
use super::reply::{self, Reply, Usage};
use crate::clock::Clock;
use crate::config::Config;
use crate::sealing::Token;
use crate::signing::hmac_sha256;
use model::hex::hex;

/// The deadline for a connection to Facebook.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The deadline of a whole request, to the last byte of its reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest reply that is read, in bytes.
pub const MAX_REPLY: usize = 8 * 1024 * 1024;

/// The credentials that authenticate a request.
#[derive(Debug, Clone, Copy)]
pub enum Caller<'a> {
    /// The token of a person or of a Page.
    Token(&'a Token),
    /// The app's own token: its id and its secret.
    App,
    /// No token. The exchange of a code or a token has the app secret among its parameters.
    Anonymous,
}

/// A client for the Graph API of one app.
#[derive(Debug, Clone)]
pub struct Graph {
    http: reqwest::Client,
    base: Url,
    version: String,
    pub(super) app_id: String,
    pub(super) app_secret: SecretString,
    clock: Clock,
    observed: Arc<Mutex<Observed>>,
}

/// The data from the headers of replies.
#[derive(Debug, Default)]
struct Observed {
    /// The usage of rate limits by bucket, since the last [`Graph::take_usage`].
    usage: BTreeMap<String, Usage>,
    /// Whether a warning about another version was logged.
    version_warned: bool,
    /// The number of replies from another version than the requested one, since the last
    /// [`Graph::take_version_mismatches`].
    version_mismatches: u64,
}

/// One request. The parameters are the form of a POST, and the query of any other method.
#[derive(Clone)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) parameters: Vec<(&'a str, String)>,
    pub(super) caller: Caller<'a>,
}

impl Graph {
    /// Creates a client for the configured app. Fails if `PAGESYNC_GRAPH_URL` is not a URL, or if
    /// TLS cannot be set up.
    pub fn new(config: &Config, clock: Clock) -> Result<Self, GraphError> {
        crate::tls::install_provider();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REPLY_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("pagesync/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| GraphError::configuration(error.to_string()))?;
        let base = Url::parse(&config.graph_url);
        let base = base.map_err(|_| invalid_graph_url())?;
        let secret = config.app_secrets.first().cloned().unwrap_or_default();
        Ok(Self {
            http,
            base,
            version: config.graph_version.clone(),
            app_id: config.app_id.clone(),
            app_secret: secret,
            clock,
            observed: Arc::default(),
        })
    }

    /// Returns the id of the app.
    pub fn app_id(&self) -> &str {
        &self.app_id
    }

    /// Returns the usage of rate limits that replies reported since the last call, by bucket.
    pub fn take_usage(&self) -> BTreeMap<String, Usage> {
        std::mem::take(&mut self.lock_observed().usage)
    }

    /// Returns how many replies another version of Graph served since the last call.
    pub fn take_version_mismatches(&self) -> u64 {
        std::mem::take(&mut self.lock_observed().version_mismatches)
    }

    fn lock_observed(&self) -> std::sync::MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `appsecret_proof`: the HMAC-SHA256 of the token with the app secret, in hexadecimal.
    /// Source: "Securing Graph API calls".
    fn appsecret_proof(&self, token: &Token) -> String {
        let mac = hmac_sha256(&self.app_secret);
        let bytes = mac.chain_update(token.expose()).finalize().into_bytes();
        hex(&bytes)
    }

    /// Sends a request and returns its reply. Fails if the reply is not successful. A read that is
    /// refused with an `OAuthException` without a code is sent again once: such an error was seen for
    /// tokens that were valid.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Reply, GraphError> {
        let (is_read, caller) = (request.method == Method::GET, request.caller);
        let mut result = self.send_once(request.clone()).await;
        let is_unclear = |error: &GraphError| error.is_token_without_code();
        if is_read && result.as_ref().err().is_some_and(is_unclear) {
            result = self.send_once(request).await;
        }
        result.map_err(|mut error| {
            // The app's own token consists of its id and its secret.
            if let (ErrorKind::Token { .. }, Caller::App) = (&error.kind, caller) {
                let problem = "FACEBOOK_APP_ID and FACEBOOK_APP_SECRET do not belong together";
                error.kind = ErrorKind::Configuration(problem.to_owned());
            }
            error
        })
    }

    /// Sends a request once.
    async fn send_once(&self, request: Request<'_>) -> Result<Reply, GraphError> {
        let Request {
            method,
            path,
            mut parameters,
            caller,
        } = request;
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| invalid_graph_url())?
            .pop_if_empty()
            .push(&self.version)
            .extend(path.split('/'));
        if let Caller::Token(token) = caller {
            parameters.push(("appsecret_proof", self.appsecret_proof(token)));
        }
        let mut builder = self.http.request(method.clone(), url);
        builder = if method == Method::POST {
            builder.form(&parameters)
        } else {
            builder.query(&parameters)
        };
        builder = match caller {
            Caller::Token(token) => builder.bearer_auth(token.expose()),
            Caller::App => {
                let secret = self.app_secret.expose_secret();
                builder.bearer_auth(format!("{}|{secret}", self.app_id))
            }
            Caller::Anonymous => builder,
        };
        let began = Instant::now();
        let response = builder
            .send()
            .await
            .map_err(|error| network_error(&error))?;
        self.read_reply(response, began).await
    }

    /// Reads a reply and its headers. Fails with the error in the reply if it is not successful.
    async fn read_reply(
        &self,
        mut response: reqwest::Response,
        began: Instant,
    ) -> Result<Reply, GraphError> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| network_error(&error))?
        {
            if bytes.len() + chunk.len() > MAX_REPLY {
                return Err(GraphError::unexpected(format!(
                    "a reply of more than {MAX_REPLY} bytes"
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        let stamp = reply::stamp(&headers, began.elapsed(), self.clock.now());
        let usage = reply::usage(&headers);
        self.record_headers(usage.clone(), reply::version(&headers));
        let body: Option<Json> = serde_json::from_slice(&bytes).ok();
        // For the rate limit of a Page, the header reports how long calls are refused.
        let error_of = |body: Option<&Json>| {
            let pages = usage
                .iter()
                .filter(|(bucket, _)| bucket.starts_with("page:"));
            let blocked_for = pages.map(|(_, usage)| usage.blocked_for).max();
            let mut error = GraphError::from_reply(status, body);
            if let ErrorKind::RateLimited {
                scope: RateLimitScope::Page,
                wait,
            } = &mut error.kind
            {
                *wait = (*wait).max(blocked_for.filter(|blocked_for| !blocked_for.is_zero()));
            }
            error
        };
        match body {
            Some(body) if is_success(status, &body) => Ok(Reply { body, stamp }),
            body => {
                let mut error = error_of(body.as_ref());
                let reported = error.reported.as_ref();
                tracing::debug!(
                    status,
                    error = %error,
                    fbtrace_id = reported.and_then(|reported| reported.fbtrace_id.as_deref()),
                    "Graph answered with an error"
                );
                let refused = body.as_ref().map(error::refused_fields);
                let refused = refused.filter(|names| !names.is_empty());
                if let (ErrorKind::Permission(_) | ErrorKind::Configuration(_), Some(names)) =
                    (&error.kind, refused)
                {
                    error.kind = ErrorKind::Permission(names.join(","));
                }
                Err(error)
            }
        }
    }

    /// Records the headers of a reply. `served` is the version of Graph that served the reply.
    fn record_headers(&self, usage: BTreeMap<String, Usage>, served: Option<String>) {
        let mut observed = self.lock_observed();
        observed.usage.extend(usage);
        let other = served.filter(|served| *served != self.version);
        observed.version_mismatches += u64::from(other.is_some());
        if let Some(served) = other.filter(|_| !observed.version_warned) {
            observed.version_warned = true;
            tracing::warn!(
                requested = self.version,
                served,
                "Graph served another version: PAGESYNC_GRAPH_VERSION has expired, set a later one"
            );
        }
    }
}

/// Returns whether a reply is successful. Errors can also have status 200.
pub(super) fn is_success(status: u16, body: &Json) -> bool {
    (200..300).contains(&status) && body.get("error").is_none() && body.get("error_code").is_none()
}

fn invalid_graph_url() -> GraphError {
    GraphError::configuration("PAGESYNC_GRAPH_URL is not a URL that paths can be added to")
}

/// Converts an error of the network. The address, which can contain a token, is left out.
fn network_error(error: &reqwest::Error) -> GraphError {
    let reason = if error.is_timeout() {
        "no reply in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection was lost"
    };
    GraphError::transient(reason)
}
