//! The errors of the HTTP API and of the token listener, as problem details (RFC 9457).
//!
//! Invariant: the list of codes is closed, and `docs/api.md` has an entry for each. A detail contains
//! neither a key nor a stored value.

use crate::queue::error::QueueError;
use crate::records::dead_letter::DeadLetterError;
use crate::store::StoreError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The code of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A parameter or the body has another form.
    InvalidRequest,
    /// The request has no usable key.
    Unauthorized,
    /// The key does not allow the request.
    Forbidden,
    /// There is no such path or object.
    NotFound,
    /// The path does not have the method.
    MethodNotAllowed,
    /// The object has another version than the request named.
    VersionConflict,
    /// The entries after the cursor are no longer stored.
    CursorGone,
    /// No token of the Page works.
    NoToken,
    /// The key was used too often.
    TooManyRequests,
    /// Too many event streams are open.
    TooManyStreams,
    /// The stored data of the object cannot be decoded.
    UnreadableData,
    /// The store does not answer.
    StoreUnavailable,
    /// The queue does not accept jobs.
    QueueUnavailable,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 13] = [
        Self::InvalidRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::VersionConflict,
        Self::CursorGone,
        Self::NoToken,
        Self::TooManyRequests,
        Self::TooManyStreams,
        Self::UnreadableData,
        Self::StoreUnavailable,
        Self::QueueUnavailable,
    ];

    /// Returns the name of the code, as JSON shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::VersionConflict => "version_conflict",
            Self::CursorGone => "cursor_gone",
            Self::NoToken => "no_token",
            Self::TooManyRequests => "too_many_requests",
            Self::TooManyStreams => "too_many_streams",
            Self::UnreadableData => "unreadable_data",
            Self::StoreUnavailable => "store_unavailable",
            Self::QueueUnavailable => "queue_unavailable",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::VersionConflict | Self::NoToken => StatusCode::CONFLICT,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::CursorGone => StatusCode::GONE,
            Self::UnreadableData => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TooManyStreams | Self::StoreUnavailable | Self::QueueUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

/// An error, as `application/problem+json`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:pagesync:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The code.
    code: Code,
    /// The HTTP status.
    status: u16,
    /// What is wrong, and what to do.
    detail: String,
    /// The cursor from which to go on, with the code `cursor_gone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    /// The present version of the object, with the code `version_conflict`.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

impl Problem {
    /// Returns a problem with these words.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:pagesync:problem:{}", code.name()),
            code,
            status: code.status().as_u16(),
            detail: detail.into(),
            cursor: None,
            version: None,
        }
    }

    /// Returns the problem of a parameter or a body.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// Returns the problem of an object that does not exist or that the key may not see.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}"))
    }

    /// Returns the problem of an action on an object that has the version `present`.
    pub fn conflict(present: u64) -> Self {
        let detail = "the object has changed since: load it, and repeat the request with its present version if it is still wanted";
        Self {
            version: Some(present),
            ..Self::new(Code::VersionConflict, detail)
        }
    }

    /// Returns the problem of a cursor after which entries are missing.
    pub fn gone(cursor: String) -> Self {
        let detail = "the entries after this cursor are no longer stored: keep the cursor of this answer, load all Pages from /v1/pages, and go on after it";
        Self {
            cursor: Some(cursor),
            ..Self::new(Code::CursorGone, detail)
        }
    }

    /// Returns the code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Returns the problem as JSON text.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| unreachable!("plain data: {error}"))
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(error = %error, "a request of the API cannot be answered");
        if error.is_outage() {
            let detail = "the store does not answer: repeat the request later";
            return Self::new(Code::StoreUnavailable, detail);
        }
        let detail = "stored data cannot be decoded: `pagesync doctor` names it";
        Self::new(Code::UnreadableData, detail)
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        tracing::warn!(error = %error, "an action of the API cannot be executed");
        let detail = "the queue does not accept jobs: repeat the request later";
        Self::new(Code::QueueUnavailable, detail)
    }
}

impl From<DeadLetterError> for Problem {
    fn from(error: DeadLetterError) -> Self {
        match error {
            DeadLetterError::Unknown(_) => Self::not_found("dead letter"),
            DeadLetterError::Store(error) => error.into(),
            DeadLetterError::Queue(error) => error.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let content_type = HeaderValue::from_static("application/problem+json");
        let headers = [(header::CONTENT_TYPE, content_type)];
        let mut response = (self.code.status(), headers, self.json()).into_response();
        if self.code == Code::Unauthorized {
            let challenge = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
