//! What Graph answers on bad days: its error codes with their real statuses and texts, and what is in
//! between it and us.
//!
//! Source: "Handling errors" of the Graph API; statuses and texts from captures where the page gives
//! none.

use serde_json::{Value, json};

/// An error Graph answers with.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// How it is named in a fault: `code` or `code/subcode`.
    pub name: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// Its `type`.
    pub kind: &'static str,
    /// Its message.
    pub message: &'static str,
    /// Its `is_transient`.
    pub transient: bool,
}

const fn row(name: &'static str, status: u16, message: &'static str) -> Row {
    Row {
        name,
        status,
        kind: "OAuthException",
        message,
        transient: false,
    }
}

const fn transient(name: &'static str, status: u16, message: &'static str) -> Row {
    Row {
        transient: true,
        ..row(name, status, message)
    }
}

const SESSION: &str = "Error validating access token: the session is over";

/// Every error that can be asked for.
pub const ROWS: [Row; 54] = [
    row("1", 500, "An unknown error occurred"),
    row("1/99", 500, "An unknown error has occurred."),
    row(
        "1/2853006",
        400,
        "You do not have permission to perform this action",
    ),
    transient(
        "2",
        503,
        "An unexpected error has occurred. Please retry your request later.",
    ),
    row(
        "3",
        400,
        "(#3) Application does not have the capability to make this API call.",
    ),
    row("4", 403, "(#4) Application request limit reached"),
    row("4/1349210", 403, "(#4) Application request limit reached"),
    row(
        "10",
        403,
        "(#10) This endpoint requires the 'pages_read_engagement' permission",
    ),
    row(
        "15",
        400,
        "(#15) This method must be called with an app access_token.",
    ),
    row("17", 400, "(#17) User request limit reached"),
    row("17/2446079", 400, "(#17) User request limit reached"),
    row(
        "21",
        400,
        "(#21) Page ID 1 was migrated to page ID 2. Please update your API calls to the new ID",
    ),
    row("32", 400, "(#32) Page request limit reached"),
    row("100", 400, "(#100) Invalid parameter"),
    Row {
        kind: "GraphMethodException",
        ..row(
            "100/33",
            400,
            "Unsupported get request. Object with ID '1' does not exist, cannot be loaded due to missing permissions, or does not support this operation.",
        )
    },
    row("100/36007", 400, "This authorization code has expired."),
    row("100/36009", 400, "This authorization code has been used."),
    row(
        "101",
        400,
        "Error validating application. Cannot get application info due to a system error.",
    ),
    row("102", 400, "Session key invalid or no longer valid"),
    row("104", 400, "Incorrect signature"),
    row("190", 400, "Invalid OAuth access token."),
    row(
        "190/458",
        400,
        "Error validating access token: The user has not authorized application.",
    ),
    row(
        "190/459",
        400,
        "Error validating access token: You cannot access the app till you log in to www.facebook.com and follow the instructions given.",
    ),
    row(
        "190/460",
        400,
        "Error validating access token: The session has been invalidated because the user changed their password or Facebook has changed the session for security reasons.",
    ),
    row(
        "190/463",
        400,
        "Error validating access token: Session has expired on Thursday, 09-Apr-15 15:00:00 PDT.",
    ),
    row(
        "190/464",
        400,
        "Error validating access token: Sessions for the user are not allowed because the user is not a confirmed user.",
    ),
    row("190/466", 400, SESSION),
    row("190/467", 401, SESSION),
    row(
        "190/490",
        400,
        "The user is enrolled in a blocking, logged-in checkpoint",
    ),
    row(
        "190/492",
        400,
        "Error validating access token: the user does not have a role on the Page",
    ),
    row(
        "190/2069032",
        400,
        "A Page access token is required for this call for the new Pages experience.",
    ),
    row(
        "200",
        403,
        "(#200) Requires pages_read_engagement permission to manage the object",
    ),
    row(
        "210",
        400,
        "(#210) A page access token is required to request this resource.",
    ),
    row("299", 403, "(#299) permission missing"),
    row("341", 400, "(#341) Feed action request limit reached"),
    row(
        "368",
        403,
        "(#368) The action attempted has been deemed abusive or is otherwise disallowed",
    ),
    row("450", 400, SESSION),
    row(
        "452",
        400,
        "Session key invalid. This could be because the session key has an incorrect format, or because the user has revoked this session",
    ),
    row("506/1455006", 400, "(#506) Duplicate status message"),
    row(
        "613",
        400,
        "(#613) Calls to this api have exceeded the rate limit.",
    ),
    row(
        "613/1996",
        400,
        "(#613) Calls to this api have exceeded the rate limit.",
    ),
    row(
        "803",
        400,
        "(#803) Some of the aliases you requested do not exist",
    ),
    row("2200", 400, "(#2200) callback verification failed"),
    row(
        "2500",
        400,
        "An active access token must be used to query information about the current user.",
    ),
    row(
        "80001",
        400,
        "(#80001) There have been too many calls to this Page account. Wait a bit and try again.",
    ),
    row(
        "100/36008",
        400,
        "Error validating verification code. Please make sure your redirect_uri is identical to the one you used in the OAuth dialog request",
    ),
    row(
        "80000",
        400,
        "(#80000) There have been too many calls from this ad-account. Wait a bit and try again.",
    ),
    row(
        "80003",
        400,
        "(#80003) There have been too many calls to this ad-account. Wait a bit and try again.",
    ),
    row(
        "80004",
        400,
        "(#80004) There have been too many calls to this ad-account. Wait a bit and try again.",
    ),
    row(
        "80005",
        400,
        "(#80005) There have been too many leadgen api calls to this Page account. Wait a bit and try again.",
    ),
    row(
        "80014",
        400,
        "(#80014) There have been too many calls for the batch uploads to this catalog account.",
    ),
    row(
        "80002",
        400,
        "(#80002) There have been too many calls to this Instagram account. Wait a bit and try again.",
    ),
    row(
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

/// A way for one answer to go wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// An error of Graph's.
    Error(&'static Row),
    /// "Please reduce the amount of data", which is code 1 with another message.
    TooMuch,
    /// An HTML page of a server in between, 502.
    Html,
    /// The real answer, later than anybody waits.
    Slow,
    /// The connection breaks in the middle of the answer.
    Reset,
    /// Half of the real body.
    Truncated,
    /// The real answer as `text/javascript`.
    WrongType,
    /// Nothing, with status 200.
    Empty,
    /// `false`, with status 200.
    No,
}

impl Fault {
    /// The fault of this name: an error as `190/463`, or one of the words below.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "too_much" => Self::TooMuch,
            "html" => Self::Html,
            "slow" => Self::Slow,
            "reset" => Self::Reset,
            "truncated" => Self::Truncated,
            "wrong_type" => Self::WrongType,
            "empty" => Self::Empty,
            "false" => Self::No,
            name => Self::Error(ROWS.iter().find(|row| row.name == name)?),
        })
    }
}

impl Row {
    /// The error as it stands in a body.
    pub fn error(&self) -> Value {
        let mut numbers = self.name.split('/').map(str::parse::<u64>);
        let mut error = json!({
            "message": self.message, "type": self.kind, "fbtrace_id": "AsimTrace",
        });
        if let Some(Ok(code)) = numbers.next() {
            error["code"] = json!(code);
        }
        if let Some(Ok(subcode)) = numbers.next() {
            error["error_subcode"] = json!(subcode);
        }
        if self.transient {
            error["is_transient"] = json!(true);
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name_and_names_are_distinct() {
        let names: std::collections::BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for row in &ROWS {
            assert!(
                matches!(Fault::parse(row.name), Some(Fault::Error(_))),
                "{}",
                row.name
            );
            assert!(row.error()["code"].is_u64());
        }
        assert!(Fault::parse("190/1").is_none() && Fault::parse("").is_none());
    }
}
