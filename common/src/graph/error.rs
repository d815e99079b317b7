//! The classification of failed calls to Graph.
//!
//! An error is classified by its JSON members `code` and `error_subcode`, or by its status if they
//! are missing: Graph sends nearly every error with 400, and proxies send HTML.
//! Source: "Handling errors" of the Graph API; codes that are not listed there are from captured
//! replies.
//!
//! Invariant: a classified error contains names from the message of Graph, but not the message,
//! which could contain a token.

use std::fmt;
use std::time::Duration;

use serde_json::Value as Json;

/// The reason why a call to Graph failed. Each variant needs a different reaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphError {
    /// A temporary failure of the network, of a server or of Facebook. The call can be retried.
    Transient(String),
    /// A rate limit is exhausted.
    RateLimited {
        /// The scope of the rate limit.
        scope: RateLimitScope,
        /// The time until calls are possible again, if it is known.
        wait: Option<Duration>,
    },
    /// The reply would be too large. The call must request less.
    TooMuchData,
    /// Graph refused one field, and with it the whole call: the field does not exist, has ended, or is
    /// not available for this Page. The text names the field; `None` if the error names none.
    RefusedField(Option<String>),
    /// The token is invalid.
    Token {
        /// `error_subcode`, which identifies the reason.
        subcode: Option<u64>,
    },
    /// A permission is missing. The text names the permission, the refused fields, or the code.
    Permission(String),
    /// The object does not exist, or the token does not give access to it.
    NotFound,
    /// The request, the app or the configuration of pagesync is wrong.
    Configuration(String),
    /// The reply is neither the expected reply nor an error of Graph.
    UnexpectedReply(String),
}

/// The scope of a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateLimitScope {
    /// All calls of the app.
    App,
    /// The calls with the token of a person.
    User,
    /// The calls about a Page.
    Page,
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient(reason) => write!(f, "Graph is temporarily not available: {reason}"),
            Self::RateLimited { scope, .. } => {
                write!(f, "the rate limit of the {scope:?} is exhausted")
            }
            Self::TooMuchData => f.write_str("the requested data is too large for one reply"),
            Self::RefusedField(Some(name)) => write!(f, "Graph refuses the field {name}"),
            Self::RefusedField(None) => f.write_str("Graph refuses a field and does not name it"),
            Self::Token {
                subcode: Some(code),
            } => write!(
                f,
                "the token is invalid: {} (subcode {code})",
                token_error_reason(*code)
            ),
            Self::Token { subcode: None } => f.write_str("the token is invalid"),
            Self::Permission(name) => write!(f, "a permission is missing: {name}"),
            Self::NotFound => {
                f.write_str("the object does not exist, or the token does not give access to it")
            }
            Self::Configuration(problem) => {
                write!(f, "the request or the configuration is wrong: {problem}")
            }
            Self::UnexpectedReply(problem) => write!(f, "unexpected reply of Graph: {problem}"),
        }
    }
}

impl std::error::Error for GraphError {}

/// Returns the reason why a token is invalid, and the action that the person must take.
///
/// Source: the subcodes in "Handling errors" of the Graph API; 464, 466, 490 and 492 are from
/// captured replies.
fn token_error_reason(subcode: u64) -> &'static str {
    match subcode {
        458 => "the person removed the app; they can log in again",
        459 => {
            "Facebook checks the account; the person must follow the instructions at facebook.com"
        }
        460 => "the person changed their password; they must log in again",
        463 => "the token has expired; the person must log in again",
        464 => "the person must confirm their account at facebook.com",
        466 | 467 => "the session has ended; the person must log in again",
        490 => "the person must log in with two-factor authentication",
        492 => "the person has no role on the Page any more",
        _ => "the person must log in again",
    }
}

impl GraphError {
    /// Returns the label of this error in metrics and in stored results.
    pub fn metric_label(&self) -> &'static str {
        match self {
            Self::Transient(_) => "transient",
            Self::RateLimited { .. } => "rate_limited",
            Self::TooMuchData => "too_much_data",
            Self::RefusedField(_) => "refused_field",
            Self::Token { .. } => "token",
            Self::Permission(_) => "permission",
            Self::NotFound => "not_found",
            Self::Configuration(_) => "configuration",
            Self::UnexpectedReply(_) => "unexpected_reply",
        }
    }

    /// Classifies a reply that is not successful, by its status and its parsed body. `body` is
    /// `None` if the reply is not JSON.
    pub fn from_reply(status: u16, body: Option<&Json>) -> Self {
        let Some(error) = body.and_then(error_object) else {
            return classify_status(status);
        };
        let number = |name: &str| {
            let value = error.get(name)?;
            value.as_u64().or_else(|| value.as_str()?.parse().ok())
        };
        let message = error.get("message").and_then(Json::as_str).unwrap_or("");
        let subcode = number("error_subcode").or_else(|| number("subcode"));
        let code = number("code").or_else(|| code_in_message(message));
        let is_transient = error.get("is_transient") == Some(&Json::Bool(true));
        let kind = error.get("type").and_then(Json::as_str);
        match (code, kind) {
            (Some(code), _) => match classify_code(code, subcode, message) {
                // Facebook marks an exhausted rate limit as transient too, but calls must stop.
                error @ (Self::RateLimited { .. } | Self::TooMuchData) => error,
                _ if is_transient => Self::Transient(format!("code {code}")),
                error => error,
            },
            (None, _) if is_transient => Self::Transient("an error without a code".to_owned()),
            (None, Some("OAuthException")) => Self::Token { subcode },
            (None, _) => classify_status(status),
        }
    }
}

/// Returns the error object of a body, from any of the forms that Graph uses.
fn error_object(body: &Json) -> Option<Json> {
    if let Some(error) = body.get("error").filter(|error| error.is_object()) {
        return Some(error.clone());
    }
    let code = body.get("error_code")?;
    let message_names = ["error_msg", "error_description", "error_message"];
    let message = message_names.iter().find_map(|name| body.get(name));
    Some(serde_json::json!({"code": code, "message": message}))
}

/// Returns the code at the start of a message, such as `(#341) ...`. Very old errors have it only
/// there.
fn code_in_message(message: &str) -> Option<u64> {
    message.strip_prefix("(#")?.split(')').next()?.parse().ok()
}

/// Classifies a reply without an error object.
fn classify_status(status: u16) -> GraphError {
    match status {
        200..=299 => {
            GraphError::UnexpectedReply(format!("status {status} without the expected content"))
        }
        429 => GraphError::RateLimited {
            scope: RateLimitScope::App,
            wait: None,
        },
        300..=399 => GraphError::UnexpectedReply(format!(
            "a redirect, status {status}, which is not followed"
        )),
        // Graph reports an invalid token or a missing object with an error object. Without one, the
        // reply is from a proxy.
        401 | 404 | 500..=599 => GraphError::Transient(format!("status {status}")),
        _ => GraphError::UnexpectedReply(format!("status {status} without an error object")),
    }
}

/// Returns the field name in "Tried accessing nonexisting field (x)". This text can be anywhere in
/// the message.
fn unknown_field(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("nonexisting field (")?;
    let name = rest.split(')').next().filter(|name| !name.is_empty());
    name.map(ToOwned::to_owned)
}

/// Returns the name beside the word "field", as in "(#12) emails field is deprecated" or "the field
/// 'phone'", or `None` if there is no name. The name can be a common word, so the caller compares it
/// with the fields that it requested.
fn named_field(message: &str) -> Option<String> {
    let is_separator = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let words: Vec<&str> = message
        .split(is_separator)
        .filter(|word| !word.is_empty())
        .collect();
    let at = words.iter().position(|word| *word == "field")?;
    // A field name has no capital letters, and these words of sentences are no field names.
    let is_name = |word: &&&str| {
        let is_common = [
            "a", "an", "the", "this", "that", "one", "is", "are", "was", "on", "of", "for", "does",
            "not", "has", "requires",
        ];
        !is_common.contains(*word)
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
    };
    let before = at
        .checked_sub(1)
        .and_then(|at| words.get(at))
        .filter(is_name);
    let name = before.or_else(|| words.get(at + 1).filter(is_name));
    name.map(|name| (*name).to_owned())
}

/// Classifies an error by its code.
fn classify_code(code: u64, subcode: Option<u64>, message: &str) -> GraphError {
    let rate_limited = |scope| GraphError::RateLimited { scope, wait: None };
    match (code, subcode) {
        (1, _) if message.contains("reduce the amount of data") => GraphError::TooMuchData,
        // At the token endpoint, code 1 can mean a wrong app secret. Elsewhere it is temporary.
        (1, _) if message.contains("client secret") => GraphError::Configuration(
            "FACEBOOK_APP_SECRET is not the secret of this app".to_owned(),
        ),
        (1, Some(2_853_006)) => GraphError::Permission("a role on the Page".to_owned()),
        (1 | 2, _) => GraphError::Transient(format!("code {code}")),
        (4 | 341 | 613 | 80000 | 80002..=80014, _) => rate_limited(RateLimitScope::App),
        (17, _) => rate_limited(RateLimitScope::User),
        (32 | 80001, _) => rate_limited(RateLimitScope::Page),
        // Facebook has blocked the calls as abuse. Calls stop for a day, so that an operator can
        // find the cause.
        (368, _) => GraphError::RateLimited {
            scope: RateLimitScope::Page,
            wait: Some(Duration::from_secs(24 * 3600)),
        },
        (102 | 190 | 450 | 452 | 463 | 467, _) => GraphError::Token { subcode },
        (100, Some(33)) | (21 | 803, _) => GraphError::NotFound,
        // A field that has ended, and a field that Pages of the new experience do not have. Sources:
        // "(#12) emails field is deprecated for versions v26.0 and higher" in reports of 2026, and
        // the errors of the Pages API.
        (12, _) | (200, Some(2_069_031)) => GraphError::RefusedField(named_field(message)),
        (100, _) => match unknown_field(message) {
            Some(name) => GraphError::RefusedField(Some(name)),
            None if message.contains("missing permission") => {
                GraphError::Permission("pages_read_engagement".to_owned())
            }
            None => GraphError::Configuration(format!("code 100{}", subcode_suffix(subcode))),
        },
        (3 | 10 | 200..=299, _) => match (missing_permission(message), named_field(message)) {
            (Some(permission), _) => GraphError::Permission(permission),
            (None, Some(field)) => GraphError::RefusedField(Some(field)),
            (None, None) => GraphError::Permission(format!("code {code}")),
        },
        _ => GraphError::Configuration(format!("code {code}{}", subcode_suffix(subcode))),
    }
}

fn subcode_suffix(subcode: Option<u64>) -> String {
    subcode.map_or(String::new(), |subcode| format!(", subcode {subcode}"))
}

/// Returns the permission that a message names, or `None` if it names none.
fn missing_permission(message: &str) -> Option<String> {
    let is_permission = |word: &&str| word.starts_with("pages_") || *word == "business_management";
    let mut words = message.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.rfind(is_permission).map(ToOwned::to_owned)
}

/// Returns the fields that Graph refused in a subscription.
///
/// Graph names them in one of two forms: `To subscribe to the <x> field, ...`, with a line for
/// each, or `Param subscribed_fields[0] must be one of {...} - got "x"`.
pub fn refused_fields(body: &Json) -> Vec<String> {
    let message = body.pointer("/error/message").and_then(Json::as_str);
    let message = message.unwrap_or_default();
    let named = message.split("To subscribe to the ").skip(1);
    let mut fields: Vec<String> = named
        .filter_map(|rest| rest.split(' ').next())
        .map(ToOwned::to_owned)
        .collect();
    if message.contains("Param subscribed_fields[")
        && let Some((_, rest)) = message.split_once("got \"")
    {
        fields.extend(rest.split('"').next().map(ToOwned::to_owned));
    }
    fields
}
