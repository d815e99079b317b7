//! The errors that Graph answers calls with.

use serde_json::{Value, json};

use crate::errors::trace_id;

/// The answer to a call before it gets headers.
pub(super) type Answer = Result<Value, ErrorReply>;

/// An error answer of Graph.
#[derive(Debug, Clone)]
pub(super) struct ErrorReply {
    /// The HTTP status.
    pub(super) status: u16,
    /// The error object of the body.
    pub(super) error: Value,
}

impl ErrorReply {
    pub(super) fn new(
        status: u16,
        error_type: &str,
        code: u64,
        subcode: Option<u64>,
        message: &str,
    ) -> Self {
        let mut error = json!({
            "message": message, "type": error_type, "code": code, "fbtrace_id": trace_id(),
        });
        if let Some(subcode) = subcode {
            error["error_subcode"] = json!(subcode);
        }
        Self { status, error }
    }

    /// Returns an error of the type `OAuthException` with status 400.
    pub(super) fn oauth(code: u64, subcode: Option<u64>, message: &str) -> Self {
        Self::new(400, "OAuthException", code, subcode, message)
    }

    /// Returns the error for an object that does not exist or that the token may not read. Graph
    /// does not say which of the two it is.
    pub(super) fn missing(id: &str) -> Self {
        let message = format!(
            "Unsupported get request. Object with ID '{id}' does not exist, cannot be loaded due to missing permissions, or does not support this operation. Please read the Graph API documentation at https://developers.facebook.com/docs/graph-api"
        );
        Self::new(400, "GraphMethodException", 100, Some(33), &message)
    }

    /// Returns the error for a call that requests too much data at once.
    pub(super) fn too_much_data() -> Self {
        let message = "Please reduce the amount of data you're asking for, then retry your request";
        Self::new(500, "OAuthException", 1, None, message)
    }

    /// Returns the error for a path that Graph does not serve. `rest` is its unknown part.
    pub(super) fn unknown_path(rest: &str) -> Self {
        Self::oauth(2500, None, &format!("Unknown path components: /{rest}"))
    }

    /// Returns the error for a feature of the protocol that has ended. The code is assumed.
    pub(super) fn ended(name: &str) -> Self {
        let message = format!("(#100) The parameter {name} is no longer supported");
        Self::oauth(100, None, &message)
    }

    /// Returns the error for a method that an edge does not have.
    pub(super) fn unsupported() -> Self {
        Self::oauth(100, None, "Unsupported request")
    }

    /// Returns the body of the answer.
    pub(super) fn body(&self) -> Value {
        json!({"error": self.error})
    }
}
