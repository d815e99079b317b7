//! Posts to addresses of the operator, such as a bot or a destination of changes.
//!
//! Invariants: redirects are not followed. An error contains neither an address nor the text of an answer.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};

/// How long an answer may take.
pub const TIMEOUT: Duration = Duration::from_secs(20);
/// How much of an answer is read, so that its connection can be used again.
const MAX_ANSWER: usize = 64 * 1024;

/// The reason why a post was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PostError {
    /// The answer has a status other than 200 to 299.
    #[error("the receiver answered {0}")]
    Status(StatusCode),
    /// There was no answer.
    #[error("the receiver did not answer: {0}")]
    NotAnswered(&'static str),
}

impl PostError {
    /// Returns the name of the outcome in the metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Status(_) => "refused",
            Self::NotAnswered(_) => "not_answered",
        }
    }
}

/// Returns a client for posts. Fails if the HTTP client cannot be built.
pub fn client() -> reqwest::Result<reqwest::Client> {
    crate::tls::install_provider();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .build()
}

/// Sends a post. Fails unless the answer has a status from 200 to 299.
pub async fn send(request: RequestBuilder) -> Result<(), PostError> {
    let answer = request.send().await;
    let mut answer = answer.map_err(|error| PostError::NotAnswered(describe(&error)))?;
    let status = answer.status();
    let mut length = 0;
    // The status is the answer, so a body that ends early changes nothing.
    while let Ok(Some(chunk)) = answer.chunk().await {
        length += chunk.len();
        if length > MAX_ANSWER {
            break;
        }
    }
    status
        .is_success()
        .then_some(())
        .ok_or(PostError::Status(status))
}

/// Describes an error without its address.
fn describe(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "nothing came within 20 s"
    } else if error.is_connect() {
        "the connection could not be made"
    } else {
        "the connection ended before the answer"
    }
}
