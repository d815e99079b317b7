//! The faults of answers of Graph: its errors with their real statuses and texts, and faults of the
//! network and of intermediate servers.
//!
//! Source: "Handling errors" of the Graph API. Statuses and texts that this page does not give are
//! from captures.

use serde_json::{Value, json};

use crate::simulator_error::SimulatorError;

/// An error that Graph answers with.
#[derive(Debug, Clone, Copy)]
pub struct KnownError {
    /// The name of the fault: `code` or `code/subcode`.
    pub name: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The field `type` of the error.
    pub error_type: &'static str,
    /// The field `message` of the error.
    pub message: &'static str,
    /// Whether the error has `is_transient` set.
    pub is_transient: bool,
}

const fn error(name: &'static str, status: u16, message: &'static str) -> KnownError {
    KnownError {
        name,
        status,
        error_type: "OAuthException",
        message,
        is_transient: false,
    }
}

const fn transient(name: &'static str, status: u16, message: &'static str) -> KnownError {
    KnownError {
        is_transient: true,
        ..error(name, status, message)
    }
}

/// The message of errors for a token whose session is over.
pub(crate) const SESSION_OVER: &str = "Error validating access token: the session is over";

/// Every error that the simulated Graph can answer with on request.
pub const GRAPH_ERRORS: [KnownError; 58] = [
    error("1", 500, "An unknown error occurred"),
    error("1/99", 500, "An unknown error has occurred."),
    error(
        "1/2853006",
        400,
        "You do not have permission to perform this action",
    ),
    transient(
        "2",
        503,
        "An unexpected error has occurred. Please retry your request later.",
    ),
    error(
        "3",
        400,
        "(#3) Application does not have the capability to make this API call.",
    ),
    error("4", 403, "(#4) Application request limit reached"),
    error("4/1349210", 403, "(#4) Application request limit reached"),
    error(
        "10",
        403,
        "(#10) This endpoint requires the 'pages_read_engagement' permission",
    ),
    error(
        "12",
        400,
        "(#12) emails field is deprecated for versions v26.0 and higher",
    ),
    error(
        "15",
        400,
        "(#15) This method must be called with an app access_token.",
    ),
    error("17", 400, "(#17) User request limit reached"),
    error("17/2446079", 400, "(#17) User request limit reached"),
    error(
        "21",
        400,
        "(#21) Page ID 1 was migrated to page ID 2. Please update your API calls to the new ID",
    ),
    error("32", 400, "(#32) Page request limit reached"),
    error("100", 400, "(#100) Invalid parameter"),
    KnownError {
        error_type: "GraphMethodException",
        ..error(
            "100/33",
            400,
            "Unsupported get request. Object with ID '1' does not exist, cannot be loaded due to missing permissions, or does not support this operation.",
        )
    },
    error("100/36007", 400, "This authorization code has expired."),
    error("100/36009", 400, "This authorization code has been used."),
    error(
        "101",
        400,
        "Error validating application. Cannot get application info due to a system error.",
    ),
    error("102", 400, "Session key invalid or no longer valid"),
    error("104", 400, "Incorrect signature"),
    error("190", 400, "Invalid OAuth access token."),
    error(
        "190/458",
        400,
        "Error validating access token: The user has not authorized application.",
    ),
    error(
        "190/459",
        400,
        "Error validating access token: You cannot access the app till you log in to www.facebook.com and follow the instructions given.",
    ),
    error(
        "190/460",
        400,
        "Error validating access token: The session has been invalidated because the user changed their password or Facebook has changed the session for security reasons.",
    ),
    error(
        "190/463",
        400,
        "Error validating access token: Session has expired on Thursday, 09-Apr-15 15:00:00 PDT.",
    ),
    error(
        "190/464",
        400,
        "Error validating access token: Sessions for the user are not allowed because the user is not a confirmed user.",
    ),
    error("190/466", 400, SESSION_OVER),
    error("190/467", 401, SESSION_OVER),
    error(
        "190/490",
        400,
        "The user is enrolled in a blocking, logged-in checkpoint",
    ),
    error(
        "190/492",
        400,
        "Error validating access token: the user does not have a role on the Page",
    ),
    error(
        "190/493",
        400,
        "Error validating access token: The access token was issued for another Page.",
    ),
    error(
        "190/2069032",
        400,
        "A Page access token is required for this call for the new Pages experience.",
    ),
    error(
        "200",
        403,
        "(#200) Requires pages_read_engagement permission to manage the object",
    ),
    error(
        "200/2069030",
        400,
        "(#200) This endpoint is not supported for the new Pages experience",
    ),
    error(
        "200/2069031",
        400,
        "(#200) This field is not supported for the new Pages experience",
    ),
    error(
        "210",
        400,
        "(#210) A page access token is required to request this resource.",
    ),
    error("299", 403, "(#299) permission missing"),
    error("341", 400, "(#341) Feed action request limit reached"),
    error(
        "368",
        403,
        "(#368) The action attempted has been deemed abusive or is otherwise disallowed",
    ),
    error("450", 400, SESSION_OVER),
    error(
        "452",
        400,
        "Session key invalid. This could be because the session key has an incorrect format, or because the user has revoked this session",
    ),
    error("506/1455006", 400, "(#506) Duplicate status message"),
    error(
        "613",
        400,
        "(#613) Calls to this api have exceeded the rate limit.",
    ),
    error(
        "613/1996",
        400,
        "(#613) Calls to this api have exceeded the rate limit.",
    ),
    error(
        "803",
        400,
        "(#803) Some of the aliases you requested do not exist",
    ),
    error("2200", 400, "(#2200) callback verification failed"),
    error(
        "2500",
        400,
        "An active access token must be used to query information about the current user.",
    ),
    error(
        "80001",
        400,
        "(#80001) There have been too many calls to this Page account. Wait a bit and try again.",
    ),
    error(
        "100/36008",
        400,
        "Error validating verification code. Please make sure your redirect_uri is identical to the one you used in the OAuth dialog request",
    ),
    error(
        "80000",
        400,
        "(#80000) There have been too many calls from this ad-account. Wait a bit and try again.",
    ),
    error(
        "80003",
        400,
        "(#80003) There have been too many calls to this ad-account. Wait a bit and try again.",
    ),
    error(
        "80004",
        400,
        "(#80004) There have been too many calls to this ad-account. Wait a bit and try again.",
    ),
    error(
        "80005",
        400,
        "(#80005) There have been too many leadgen api calls to this Page account. Wait a bit and try again.",
    ),
    error(
        "80014",
        400,
        "(#80014) There have been too many calls for the batch uploads to this catalog account.",
    ),
    error(
        "80002",
        400,
        "(#80002) There have been too many calls to this Instagram account. Wait a bit and try again.",
    ),
    error(
        "80006",
        400,
        "(#80006) There have been too many calls to this Messenger account. Wait a bit and try again.",
    ),
    transient(
        "190/463/transient",
        400,
        "Error validating access token: please retry",
    ),
];

/// Returns a new `fbtrace_id`. Each error of Graph has another one.
pub(crate) fn trace_id() -> String {
    format!("Asim{:016x}", fastrand::u64(..))
}

/// A fault of one answer.
#[derive(Debug, Clone, Copy)]
pub enum AnswerFault {
    /// An error of Graph.
    Error(&'static KnownError),
    /// The error "Please reduce the amount of data", which is code 1 with another message.
    TooMuchData,
    /// The HTML page of an intermediate server, with status 502.
    HtmlPage,
    /// The real answer after a delay of `slow_answer_seconds`.
    Slow,
    /// A connection that breaks in the middle of the answer.
    Reset,
    /// The first half of the real body.
    Truncated,
    /// The real answer with the content type `text/javascript`.
    WrongType,
    /// An empty body with status 200.
    Empty,
    /// The body `false` with status 200.
    False,
}

impl AnswerFault {
    /// Returns the fault with this name, or `None` if there is none.
    ///
    /// A name is that of an error, such as `190/463`, or a word, such as `html`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "too_much" => Self::TooMuchData,
            "html" => Self::HtmlPage,
            "slow" => Self::Slow,
            "reset" => Self::Reset,
            "truncated" => Self::Truncated,
            "wrong_type" => Self::WrongType,
            "empty" => Self::Empty,
            "false" => Self::False,
            name => Self::Error(GRAPH_ERRORS.iter().find(|error| error.name == name)?),
        })
    }
}

/// Fails if a name is not that of an answer fault.
pub(crate) fn check_fault_names<'a>(
    mut names: impl Iterator<Item = &'a String>,
) -> Result<(), SimulatorError> {
    match names.find(|name| AnswerFault::parse(name).is_none()) {
        None => Ok(()),
        Some(name) => Err(SimulatorError::UnknownAnswerFault(name.clone())),
    }
}

impl KnownError {
    /// Returns the error object of a response body.
    pub fn to_json(&self) -> Value {
        let mut numbers = self.name.split('/').map(str::parse::<u64>);
        let mut error = json!({
            "message": self.message, "type": self.error_type, "fbtrace_id": trace_id(),
        });
        if let Some(Ok(code)) = numbers.next() {
            error["code"] = json!(code);
        }
        if let Some(Ok(subcode)) = numbers.next() {
            error["error_subcode"] = json!(subcode);
        }
        if self.is_transient {
            error["is_transient"] = json!(true);
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_found_by_its_name_and_names_are_distinct() {
        let names: std::collections::BTreeSet<_> =
            GRAPH_ERRORS.iter().map(|error| error.name).collect();
        assert_eq!(names.len(), GRAPH_ERRORS.len());
        for error in &GRAPH_ERRORS {
            assert!(
                matches!(AnswerFault::parse(error.name), Some(AnswerFault::Error(_))),
                "{}",
                error.name
            );
            assert!(error.to_json()["code"].is_u64());
        }
        assert!(AnswerFault::parse("190/1").is_none() && AnswerFault::parse("").is_none());
    }
}
