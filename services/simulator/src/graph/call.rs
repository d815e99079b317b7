//! A call of Graph, independent of the HTTP request or the batch that contained it.

use axum::http::Method;

use super::parameters::Parameters;
use super::refusal::ErrorReply;
use crate::token::Token;

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
    /// The text of the access token; `None` if the call has none.
    pub(super) credentials: Option<String>,
    /// The address of the simulator and the version, under which the caller reached it.
    pub(super) base: String,
    /// The version that serves the call.
    pub(super) version: String,
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

    /// Replaces the id of the person, or of the Page, that the token belongs to by `me`. Both name the
    /// same object in every path that begins with `me`.
    pub(super) fn with_own_id_as_me(mut self) -> Self {
        let own = match &self.caller {
            Caller::Token(token) if token.page().is_none() => Some(token.user.as_str()),
            _ => None,
        };
        if let Some(first) = self
            .path
            .first_mut()
            .filter(|first| Some(first.as_str()) == own)
        {
            "me".clone_into(first);
        }
        self
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
