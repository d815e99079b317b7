//! What a failed call to Graph means.
//!
//! Classified by the JSON `code` and `error_subcode`, then by status: Graph answers nearly every
//! error with 400, and servers in between answer HTML. Source: "Handling errors" of the Graph API;
//! the codes that page does not name are from captures. Must not: carry the message of an error that
//! could hold a token.

use std::fmt;
use std::time::Duration;

use serde_json::Value as Json;

/// Why a call did not succeed, as far as it decides what happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphError {
    /// Not now: the network, a server, Facebook itself. Ask again later.
    Transient(String),
    /// Too many calls; nothing before this has passed.
    RateLimited {
        /// Whose limit.
        bucket: RateLimitScope,
        /// How long, if Facebook said.
        wait: Option<Duration>,
    },
    /// The answer would be too large: ask for less.
    TooMuchData,
    /// A field that this version of Graph does not have.
    UnknownField(String),
    /// The token is dead.
    Token {
        /// Which death (`error_subcode`).
        subcode: Option<u64>,
    },
    /// A permission is missing.
    Permission(String),
    /// The object does not exist, or this token may not see it.
    NotFound,
    /// Something of ours is wrong: application, parameters, configuration.
    Configuration(String),
    /// An answer that is not Graph's.
    UnexpectedReply(String),
}

/// Whose limit is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateLimitScope {
    /// The app's.
    App,
    /// The person's whose token it is.
    User,
    /// The Page's.
    Page,
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient(why) => write!(f, "Facebook cannot answer now: {why}"),
            Self::RateLimited { bucket, .. } => {
                write!(f, "too many calls for the {bucket:?} limit")
            }
            Self::TooMuchData => f.write_str("Facebook wants to be asked for less at once"),
            Self::UnknownField(name) => write!(f, "Graph has no field {name}"),
            Self::Token {
                subcode: Some(code),
            } => write!(
                f,
                "the token is dead: {} ({code})",
                token_error_reason(*code)
            ),
            Self::Token { subcode: None } => f.write_str("the token is not valid"),
            Self::Permission(what) => write!(f, "a permission is missing: {what}"),
            Self::NotFound => f.write_str("it does not exist, or the token may not see it"),
            Self::Configuration(what) => write!(f, "Facebook refuses the request: {what}"),
            Self::UnexpectedReply(what) => write!(f, "not an answer of Graph: {what}"),
        }
    }
}

impl std::error::Error for GraphError {}

/// What ended a token, for whoever must mend it. Source: subcodes in "Handling errors" of the Graph API;
/// 464, 466, 490 and 492 are from captures.
fn token_error_reason(subcode: u64) -> &'static str {
    match subcode {
        458 => "the person removed the app; they may log in again",
        459 => {
            "Facebook holds the person up: they must log in at facebook.com and do as it says there"
        }
        460 => "the person changed their password; they must log in again",
        463 => "it has expired; the person must log in again",
        464 => "the person must confirm their account at facebook.com",
        466 | 467 => "the session was ended; the person must log in again",
        490 => "the person must log in with their second factor",
        492 => "the person has no role on the Page any more",
        _ => "the person must log in again",
    }
}

impl GraphError {
    /// A word for metrics and stored results.
    pub fn metric_label(&self) -> &'static str {
        match self {
            Self::Transient(_) => "transient",
            Self::RateLimited { .. } => "rate_limited",
            Self::TooMuchData => "too_much_data",
            Self::UnknownField(_) => "unknown_field",
            Self::Token { .. } => "token",
            Self::Permission(_) => "permission",
            Self::NotFound => "not_found",
            Self::Configuration(_) => "configuration",
            Self::UnexpectedReply(_) => "unexpected_reply",
        }
    }

    /// Of an answer with `status` and the parsed body; `None` for a body that is not JSON.
    pub fn from_reply(status: u16, body: Option<&Json>) -> Self {
        let Some(error) = body.and_then(envelope) else {
            return by_status(status);
        };
        let number = |name: &str| {
            let value = error.get(name)?;
            value.as_u64().or_else(|| value.as_str()?.parse().ok())
        };
        let message = error.get("message").and_then(Json::as_str).unwrap_or("");
        let subcode = number("error_subcode").or_else(|| number("subcode"));
        let code = number("code").or_else(|| code_in(message));
        let is_transient = error.get("is_transient") == Some(&Json::Bool(true));
        let kind = error.get("type").and_then(Json::as_str);
        match (code, kind) {
            (Some(code), _) => match by_code(code, subcode, message) {
                // A used up limit says that it passes, too: what matters is that we stop calling.
                error @ (Self::RateLimited { .. } | Self::TooMuchData) => error,
                _ if is_transient => Self::Transient(format!("code {code}")),
                error => error,
            },
            (None, _) if is_transient => Self::Transient("no code".to_owned()),
            (None, Some("OAuthException")) => Self::Token { subcode },
            (None, _) => by_status(status),
        }
    }
}

/// The error in a body, in the forms Graph uses.
fn envelope(body: &Json) -> Option<Json> {
    if let Some(error) = body.get("error").filter(|error| error.is_object()) {
        return Some(error.clone());
    }
    let code = body.get("error_code")?;
    let texts = ["error_msg", "error_description", "error_message"];
    let message = texts.iter().find_map(|name| body.get(name));
    Some(serde_json::json!({"code": code, "message": message}))
}

/// Very old errors have their code only in the text: `(#341) ...`.
fn code_in(message: &str) -> Option<u64> {
    message.strip_prefix("(#")?.split(')').next()?.parse().ok()
}

fn by_status(status: u16) -> GraphError {
    match status {
        200..=299 => GraphError::UnexpectedReply(format!("{status} without what was asked for")),
        429 => GraphError::RateLimited {
            bucket: RateLimitScope::App,
            wait: None,
        },
        300..=399 => {
            GraphError::UnexpectedReply(format!("a redirect ({status}), which is not followed"))
        }
        // Graph says why a token is dead or an object is missing; an edge in between does not.
        401 | 404 | 500..=599 => GraphError::Transient(format!("status {status}")),
        _ => GraphError::UnexpectedReply(format!("status {status} without a Graph error")),
    }
}

/// "Tried accessing nonexisting field (x)": in the middle of the text, with or without its type.
fn unknown_field(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("nonexisting field (")?;
    rest.split(')').next().filter(|name| !name.is_empty())
}

fn by_code(code: u64, subcode: Option<u64>, message: &str) -> GraphError {
    let throttled = |bucket| GraphError::RateLimited { bucket, wait: None };
    match (code, subcode) {
        (1, _) if message.contains("reduce the amount of data") => GraphError::TooMuchData,
        // Elsewhere code 1 passes by itself; at the token endpoint it may mean this.
        (1, _) if message.contains("client secret") => {
            GraphError::Configuration("FACEBOOK_APP_SECRET is not this app's".to_owned())
        }
        (1, Some(2_853_006)) => GraphError::Permission("a role on the Page".to_owned()),
        (1 | 2, _) => GraphError::Transient(format!("code {code}")),
        (4 | 341 | 613 | 80000 | 80002..=80014, _) => throttled(RateLimitScope::App),
        (17, _) => throttled(RateLimitScope::User),
        (32 | 80001, _) => throttled(RateLimitScope::Page),
        // Blocked for abuse: a day, and a person should look.
        (368, _) => GraphError::RateLimited {
            bucket: RateLimitScope::Page,
            wait: Some(Duration::from_secs(24 * 3600)),
        },
        (102 | 190 | 450 | 452 | 463 | 467, _) => GraphError::Token { subcode },
        (100, Some(33)) | (21 | 803, _) => GraphError::NotFound,
        (100, _) => match unknown_field(message) {
            Some(name) => GraphError::UnknownField(name.to_owned()),
            None if message.contains("missing permission") => {
                GraphError::Permission("pages_read_engagement".to_owned())
            }
            None => GraphError::Configuration(format!("code 100{}", and(subcode))),
        },
        (3 | 10 | 200..=299, _) => GraphError::Permission(permission(message, code)),
        _ => GraphError::Configuration(format!("code {code}{}", and(subcode))),
    }
}

fn and(subcode: Option<u64>) -> String {
    subcode.map_or(String::new(), |subcode| format!(", subcode {subcode}"))
}

/// The permission a message names; its code if it names none.
fn permission(message: &str, code: u64) -> String {
    let named = |word: &&str| word.starts_with("pages_") || *word == "business_management";
    let mut words = message.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let last = words.rfind(named);
    last.map_or_else(|| format!("code {code}"), ToOwned::to_owned)
}

/// The fields a refused subscription names: `To subscribe to the <x> field, ...`, one a line; or
/// `Param subscribed_fields[0] must be one of {...} - got "x"`.
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
