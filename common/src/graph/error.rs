//! The classification of failed calls to Graph.
//!
//! An error is classified by its JSON members `code` and `error_subcode`, or by its status if they
//! are missing: Graph sends nearly every error with 400, and proxies send HTML.
//! Source: "Handling errors" of the Graph API; codes that are not listed there are from captured
//! replies.
//!
//! Invariant: the text of an error contains names from the message of Graph, but not the message, so
//! that it is safe to log. The message is kept beside it, masked.

use std::fmt;
use std::time::Duration;

use model::failure::{Failure, ReportedError};
use model::id::PageId;
use model::time::HostTime;
use serde_json::Value as Json;

/// The error of a call to Graph: its kind, and what Facebook reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphError {
    /// The kind, which decides the reaction.
    pub kind: ErrorKind,
    /// The error object of the reply; `None` if the reply had none, or if there was no reply.
    pub reported: Option<Box<ReportedError>>,
}

impl From<ErrorKind> for GraphError {
    /// Returns an error that Facebook did not report.
    fn from(kind: ErrorKind) -> Self {
        Self {
            kind,
            reported: None,
        }
    }
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl std::error::Error for GraphError {}

/// The kind of an error. Each needs a different reaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
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
    /// The Page was merged into the Page with this id.
    Merged(PageId),
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

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient(reason) => write!(f, "Graph is temporarily not available: {reason}"),
            Self::RateLimited {
                scope,
                wait: Some(wait),
            } if *wait >= BLOCK_TIME => {
                write!(
                    f,
                    "Facebook has blocked calls about the {scope:?} for a day"
                )
            }
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
            Self::Merged(id) => write!(f, "the Page was merged into Page {id}"),
            Self::Configuration(problem) => {
                write!(f, "the request or the configuration is wrong: {problem}")
            }
            Self::UnexpectedReply(problem) => write!(f, "unexpected reply of Graph: {problem}"),
        }
    }
}

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

impl ErrorKind {
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
            Self::Merged(_) => "merged",
            Self::Configuration(_) => "configuration",
            Self::UnexpectedReply(_) => "unexpected_reply",
        }
    }

    /// Returns what a person can do about this error.
    pub fn remedy(&self) -> String {
        let remedy = match self {
            Self::Transient(_) | Self::TooMuchData | Self::UnexpectedReply(_) => {
                "pagesync tries again by itself; if this continues, see https://metastatus.com and `pagesync doctor`"
            }
            Self::RateLimited { .. } => {
                "wait: pagesync goes on when Facebook allows calls again; if Facebook blocked the app, see the app's dashboard"
            }
            Self::RefusedField(_) => "take the field out of PAGESYNC_FIELDS",
            Self::Token {
                subcode: Some(459 | 464 | 490),
            } => "ask the person to follow the instructions at facebook.com",
            Self::Token { subcode: Some(492) } => "give the person a role on the Page again",
            Self::Token { .. } => {
                "ask the person to log in again: `pagesync connection invite` prints the address"
            }
            Self::Permission(_) => {
                "ask the person to log in at the address of `pagesync connection invite --rerequest` and to allow everything; for people without a role on the app, the app needs Advanced Access"
            }
            Self::NotFound => {
                "check at facebook.com whether the Page exists and whether the person still has a role on it"
            }
            Self::Merged(id) => {
                return format!(
                    "use Page {id}, which the next poll of the connection lists: `pagesync page show {id}`"
                );
            }
            Self::Configuration(_) => {
                "run `pagesync doctor`; if it finds nothing, report the code and the fbtrace_id"
            }
        };
        remedy.to_owned()
    }
}

impl GraphError {
    /// Returns the error for a reply that is not the expected one.
    pub fn unexpected(problem: impl Into<String>) -> Self {
        ErrorKind::UnexpectedReply(problem.into()).into()
    }

    /// Returns the error for a request, an app or a configuration that is wrong, as pagesync finds.
    pub fn configuration(problem: impl Into<String>) -> Self {
        ErrorKind::Configuration(problem.into()).into()
    }

    /// Returns the error for a temporary failure.
    pub fn transient(reason: impl Into<String>) -> Self {
        ErrorKind::Transient(reason.into()).into()
    }

    /// Returns whether Facebook refused the token without saying why.
    pub(super) fn is_token_without_code(&self) -> bool {
        let has_code = |reported: &ReportedError| reported.code.is_some();
        matches!(self.kind, ErrorKind::Token { .. })
            && !self.reported.as_deref().is_some_and(has_code)
    }

    /// Returns whether Facebook blocks calls for a day or longer, which needs the attention of a
    /// person.
    pub fn is_block(&self) -> bool {
        matches!(self.kind, ErrorKind::RateLimited { wait: Some(wait), .. } if wait >= BLOCK_TIME)
    }

    /// Returns the failure of an attempt that ended at `at` with this error.
    pub fn failure(&self, at: HostTime) -> Failure {
        let code = self.reported.as_ref().and_then(|reported| reported.code);
        // "Incorrect signature": `appsecret_proof` was made with another secret.
        let is_signature = code == Some(104);
        let of_secret = "check that FACEBOOK_APP_SECRET is the secret of this app";
        Failure {
            at,
            reason: self.to_string(),
            remedy: if is_signature {
                of_secret.to_owned()
            } else {
                self.kind.remedy()
            },
            reported: self.reported.as_deref().cloned(),
        }
    }

    /// Classifies a reply that is not successful, by its status and its parsed body. `body` is
    /// `None` if the reply is not JSON.
    pub fn from_reply(status: u16, body: Option<&Json>) -> Self {
        let Some(error) = body.and_then(error_object) else {
            return classify_status(status).into();
        };
        Self {
            reported: Some(Box::new(reported_error(&error))),
            kind: classify_error(status, &error),
        }
    }
}

/// Returns a member that is a whole number, also one in a string.
fn number(error: &Json, name: &str) -> Option<u64> {
    let value = error.get(name)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Returns an error object as it is stored.
pub(super) fn reported_error(error: &Json) -> ReportedError {
    let text = |name: &str| error.get(name).and_then(Json::as_str);
    let message = text("message");
    ReportedError::new(
        number(error, "code").or_else(|| code_in_message(message.unwrap_or_default())),
        number(error, "error_subcode").or_else(|| number(error, "subcode")),
        message,
        text("fbtrace_id"),
    )
}

/// Classifies an error object of a reply with this status.
fn classify_error(status: u16, error: &Json) -> ErrorKind {
    let message = error.get("message").and_then(Json::as_str).unwrap_or("");
    let subcode = number(error, "error_subcode").or_else(|| number(error, "subcode"));
    let code = number(error, "code").or_else(|| code_in_message(message));
    let is_transient = error.get("is_transient") == Some(&Json::Bool(true));
    let kind = error.get("type").and_then(Json::as_str);
    match (code, kind) {
        (Some(code), _) => match classify_code(code, subcode, message) {
            // Facebook marks an exhausted rate limit as transient too, but calls must stop.
            error @ (ErrorKind::RateLimited { .. } | ErrorKind::TooMuchData) => error,
            _ if is_transient => ErrorKind::Transient(format!("code {code}")),
            error => error,
        },
        (None, _) if is_transient => ErrorKind::Transient("an error without a code".to_owned()),
        (None, Some("OAuthException")) => ErrorKind::Token { subcode },
        (None, _) => classify_status(status),
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
fn classify_status(status: u16) -> ErrorKind {
    match status {
        200..=299 => {
            ErrorKind::UnexpectedReply(format!("status {status} without the expected content"))
        }
        429 => ErrorKind::RateLimited {
            scope: RateLimitScope::App,
            wait: None,
        },
        300..=399 => ErrorKind::UnexpectedReply(format!(
            "a redirect, status {status}, which is not followed"
        )),
        // Graph reports an invalid token or a missing object with an error object. Without one, the
        // reply is from a proxy.
        401 | 404 | 500..=599 => ErrorKind::Transient(format!("status {status}")),
        _ => ErrorKind::UnexpectedReply(format!("status {status} without an error object")),
    }
}

/// Returns the field name in "Tried accessing nonexisting field (x)". This text can be anywhere in
/// the message.
fn unknown_field(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("nonexisting field (")?;
    let name = rest.split(')').next().filter(|name| is_field_name(name));
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

/// How long calls stop after Facebook has blocked them as abuse.
const BLOCK_TIME: Duration = Duration::from_secs(24 * 3600);

/// Classifies an error by its code.
fn classify_code(code: u64, subcode: Option<u64>, message: &str) -> ErrorKind {
    let rate_limited = |scope| ErrorKind::RateLimited { scope, wait: None };
    match (code, subcode) {
        (1, _) if message.contains("reduce the amount of data") => ErrorKind::TooMuchData,
        // At the token endpoint, code 1 can mean a wrong app secret. Elsewhere it is temporary.
        (1, _) if message.contains("client secret") => {
            ErrorKind::Configuration("FACEBOOK_APP_SECRET is not the secret of this app".to_owned())
        }
        (1, Some(2_853_006)) => ErrorKind::Permission("a role on the Page".to_owned()),
        (1 | 2, _) => ErrorKind::Transient(format!("code {code}")),
        (4 | 341 | 613 | 80000 | 80002..=80014, _) => rate_limited(RateLimitScope::App),
        (17, _) => rate_limited(RateLimitScope::User),
        (32 | 80001, _) => rate_limited(RateLimitScope::Page),
        // Facebook has blocked the calls as abuse. Calls stop for a day, so that an operator can
        // find the cause.
        (368, _) => ErrorKind::RateLimited {
            scope: RateLimitScope::Page,
            wait: Some(BLOCK_TIME),
        },
        (102 | 190 | 450 | 452 | 463 | 467, _) => ErrorKind::Token { subcode },
        (21, _) => merged_into(message).map_or(ErrorKind::NotFound, ErrorKind::Merged),
        (100, Some(33)) | (803, _) => ErrorKind::NotFound,
        // A field that has ended, and a field that Pages of the new experience do not have. Sources:
        // "(#12) emails field is deprecated for versions v26.0 and higher" in reports of 2026, and
        // the errors of the Pages API.
        (12, _) | (200, Some(2_069_031)) => ErrorKind::RefusedField(named_field(message)),
        (100, _) => match unknown_field(message) {
            Some(name) => ErrorKind::RefusedField(Some(name)),
            None if message.contains("missing permission") => {
                ErrorKind::Permission("pages_read_engagement".to_owned())
            }
            None => ErrorKind::Configuration(format!("code 100{}", subcode_suffix(subcode))),
        },
        (3 | 10 | 200..=299, _) => match (missing_permission(message), named_field(message)) {
            (Some(permission), _) => ErrorKind::Permission(permission),
            (None, Some(field)) => ErrorKind::RefusedField(Some(field)),
            (None, None) => ErrorKind::Permission(format!("code {code}")),
        },
        _ => ErrorKind::Configuration(format!("code {code}{}", subcode_suffix(subcode))),
    }
}

/// Returns the id in "Page ID 1 was migrated to page ID 2".
fn merged_into(message: &str) -> Option<PageId> {
    let (_, rest) = message.split_once("migrated to page ID ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    PageId::parse(digits).ok()
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
    fields.retain(|name| is_field_name(name));
    fields
}

/// Returns whether a text from a message of Facebook can be the name of a field.
fn is_field_name(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
    (1..=64).contains(&text.len()) && text.bytes().all(is_allowed)
}
