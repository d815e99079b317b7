//! The HTTP client of Graph: one request, one reply.
//!
//! Invariants: a token travels in the `Authorization` header only; an answer has a deadline and a size
//! limit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Method, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value as Json;
use sha2::Sha256;

use super::error::{self, GraphError};
use super::reply::{self, Reply, Usage};
use crate::clock::Clock;
use crate::config::Config;
use crate::sealing::Token;
use model::hex::hex;

/// To a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// To the last byte of an answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest answer read, in bytes.
pub const MAX_REPLY: usize = 8 * 1024 * 1024;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum Caller<'a> {
    /// A person or a Page.
    Token(&'a Token),
    /// The app itself.
    App,
    /// Nobody: the exchange of a code proves itself by the app secret.
    Nobody,
}

/// The client of one app.
#[derive(Debug, Clone)]
pub struct Graph {
    http: reqwest::Client,
    base: Url,
    version: String,
    pub(super) app_id: String,
    pub(super) app_secret: SecretString,
    clock: Clock,
    seen: Arc<Mutex<Observed>>,
}

/// What answers said beside what was asked.
#[derive(Debug, Default)]
struct Observed {
    usage: BTreeMap<String, Usage>,
    version_warned: bool,
    /// Answers by another version than the one asked for.
    other_version: u64,
}

/// One request. Parameters go into the query of a GET or DELETE and into the form of a POST.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) parameters: Vec<(&'a str, String)>,
    pub(super) caller: Caller<'a>,
}

impl Graph {
    /// The client of the configured app.
    pub fn new(config: &Config, clock: Clock) -> Result<Self, GraphError> {
        crate::tls::provide();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REPLY_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("pagesync/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| GraphError::Configuration(error.to_string()))?;
        let base = Url::parse(&config.graph_url);
        let base = base.map_err(|_| GraphError::Configuration("PAGESYNC_GRAPH_URL".to_owned()))?;
        let secret = config.app_secrets.first().cloned().unwrap_or_default();
        Ok(Self {
            http,
            base,
            version: config.graph_version.clone(),
            app_id: config.app_id.clone(),
            app_secret: secret,
            clock,
            seen: Arc::default(),
        })
    }

    /// The app's id.
    pub fn app_id(&self) -> &str {
        &self.app_id
    }

    /// What answers said of limits since the last call of this, by bucket.
    pub fn take_usage(&self) -> BTreeMap<String, Usage> {
        std::mem::take(&mut self.observed().usage)
    }

    /// How many answers another version served since the last call of this.
    pub fn take_version_mismatches(&self) -> u64 {
        std::mem::take(&mut self.observed().other_version)
    }

    fn observed(&self) -> std::sync::MutexGuard<'_, Observed> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `appsecret_proof`: HMAC-SHA256 of the token with the app secret, in hexadecimal digits.
    /// Source: "Securing Graph API calls".
    fn proof(&self, token: &Token) -> String {
        let key = self.app_secret.expose_secret().as_bytes();
        let mac = Hmac::<Sha256>::new_from_slice(key)
            .unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"));
        let bytes = mac.chain_update(token.expose()).finalize().into_bytes();
        hex(&bytes)
    }

    pub(super) async fn send(&self, request: Request<'_>) -> Result<Reply, GraphError> {
        let Request {
            method,
            path,
            mut parameters,
            caller,
        } = request;
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| GraphError::Configuration("PAGESYNC_GRAPH_URL".to_owned()))?
            .pop_if_empty()
            .push(&self.version)
            .extend(path.split('/'));
        if let Caller::Token(token) = caller {
            parameters.push(("appsecret_proof", self.proof(token)));
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
            Caller::Nobody => builder,
        };
        let begun = Instant::now();
        let response = builder.send().await.map_err(|error| network(&error))?;
        let answer = self.read_reply(response, begun).await;
        answer.map_err(|error| match (error, caller) {
            // The app's own token is its id and its secret.
            (GraphError::Token { .. }, Caller::App) => {
                let what = "FACEBOOK_APP_ID and FACEBOOK_APP_SECRET do not belong together";
                GraphError::Configuration(what.to_owned())
            }
            (error, _) => error,
        })
    }

    async fn read_reply(
        &self,
        mut response: reqwest::Response,
        begun: Instant,
    ) -> Result<Reply, GraphError> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| network(&error))? {
            if bytes.len() + chunk.len() > MAX_REPLY {
                return Err(GraphError::UnexpectedReply(format!(
                    "an answer over {MAX_REPLY} bytes"
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        let stamp = reply::stamp(&headers, begun.elapsed(), self.clock.now());
        let usage = reply::usage(&headers);
        self.remember(usage.clone(), reply::version(&headers));
        let body: Option<Json> = serde_json::from_slice(&bytes).ok();
        let failed = |body: Option<&Json>| {
            let pages = usage
                .iter()
                .filter(|(bucket, _)| bucket.starts_with("page:"));
            let regain = pages.map(|(_, usage)| usage.regain).max();
            match GraphError::from_reply(status, body) {
                GraphError::RateLimited {
                    bucket: error::RateLimitScope::Page,
                    wait,
                } => GraphError::RateLimited {
                    bucket: error::RateLimitScope::Page,
                    wait: wait.max(regain.filter(|regain| !regain.is_zero())),
                },
                error => error,
            }
        };
        match body {
            Some(body) if is_answer(status, &body) => Ok(Reply { body, stamp }),
            body => {
                let error = failed(body.as_ref());
                let trace = body
                    .as_ref()
                    .and_then(|body| body.pointer("/error/fbtrace_id"));
                tracing::debug!(status, error = %error, fbtrace_id = trace.and_then(Json::as_str), "Graph refused");
                Err(match (error, body) {
                    (GraphError::Permission(_) | GraphError::Configuration(_), Some(body))
                        if !error::refused_fields(&body).is_empty() =>
                    {
                        GraphError::Permission(error::refused_fields(&body).join(","))
                    }
                    (error, _) => error,
                })
            }
        }
    }

    fn remember(&self, usage: BTreeMap<String, Usage>, served: Option<String>) {
        let mut seen = self.observed();
        seen.usage.extend(usage);
        let other = served.filter(|served| *served != self.version);
        seen.other_version += u64::from(other.is_some());
        if let Some(served) = other.filter(|_| !seen.version_warned) {
            seen.version_warned = true;
            tracing::warn!(
                asked = self.version,
                served,
                "Facebook serves another version of Graph: PAGESYNC_GRAPH_VERSION has expired"
            );
        }
    }
}

/// Whether a JSON body answers the question: errors come with status 200 too.
pub(super) fn is_answer(status: u16, body: &Json) -> bool {
    (200..300).contains(&status) && body.get("error").is_none() && body.get("error_code").is_none()
}

/// What the network did, without the address that was asked.
fn network(error: &reqwest::Error) -> GraphError {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    GraphError::Transient(what.to_owned())
}
