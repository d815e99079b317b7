//! A call of Graph, independent of the HTTP request or the batch that contained it.

use std::collections::BTreeMap;

use axum::http::Method;

use super::refusal::ErrorReply;
use crate::token::Token;

/// The parameters of a call, from its query and its form.
pub(super) type Parameters = BTreeMap<String, String>;

/// The caller of Graph, determined by the access token.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// A caller without an access token.
    Anonymous,
    /// The app itself.
    App,
    /// The holder of the token of a person or a Page.
    Token(Token),
}

/// A call of Graph.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// The parts of the path, without the version.
    pub(super) path: Vec<String>,
    pub(super) parameters: Parameters,
    pub(super) caller: Caller,
}

impl Call {
    /// Returns the value of a parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Returns the token of a person or a Page. Fails if the call has none.
    pub(super) fn token(&self) -> Result<&Token, ErrorReply> {
        match &self.caller {
            Caller::Token(token) => Ok(token),
            Caller::App | Caller::Anonymous => Err(ErrorReply::oauth(
                2500,
                None,
                "An active access token must be used to query information about the current user.",
            )),
        }
    }

    /// Returns the name under which the call is counted.
    pub(super) fn edge(&self) -> String {
        let is_id = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = self
            .path
            .iter()
            .map(|part| if is_id(part) { "{id}" } else { part.as_str() })
            .collect();
        let name = match parts.as_slice() {
            [] if self.parameters.contains_key("ids") => "?ids".to_owned(),
            [] => "batch".to_owned(),
            parts => parts.join("/"),
        };
        format!("{} {name}", self.method)
    }
}

/// Splits a path into its parts, and leaves out empty ones.
pub(super) fn path_parts(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|part| !part.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

/// Returns the parameters in a query or a form. If it is invalid, there are none.
pub(super) fn read_parameters(text: &[u8]) -> Parameters {
    serde_urlencoded::from_bytes(text).unwrap_or_default()
}
