//! The ids of Pages, people and logins, and the subjects of polls.
//!
//! Invariant: every id consists of digits, or of hexadecimal digits, so it is safe to put into a
//! key, a path or a log line as it is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The id of a Page: 1 to 20 ASCII digits, not all zero. Facebook writes it as a string, and in
/// some webhooks as a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PageId(String);

/// The app-scoped id of a person: 1 to 20 ASCII digits, not all zero. A person who logged in has
/// one connection, which has the same id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(String);

/// The error for a text that is not the id of a Page or a person. It does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidId;

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id is 1 to 20 digits and not zero, as in 1170558113")
    }
}

impl std::error::Error for InvalidId {}

/// Returns `text` if it has the form that ids of Pages and of people share.
fn parse_digits(text: &str) -> Result<String, InvalidId> {
    let is_number = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if is_number && text.bytes().any(|b| b != b'0') {
        Ok(text.to_owned())
    } else {
        Err(InvalidId)
    }
}

impl PageId {
    /// Parses the id of a Page.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        parse_digits(text).map(Self)
    }

    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl UserId {
    /// Parses the id of a person.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        parse_digits(text).map(Self)
    }

    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PageId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl TryFrom<String> for UserId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl From<PageId> for String {
    fn from(id: PageId) -> Self {
        id.0
    }
}

impl From<UserId> for String {
    fn from(id: UserId) -> Self {
        id.0
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a login that is being completed: the hash of its state, as 64 lower-case hexadecimal
/// digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LoginId(String);

impl LoginId {
    /// Parses the id of a login. Returns `None` if `text` does not have its form.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 64 && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The error for a text that is not a [`LoginId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidLoginId;

impl fmt::Display for InvalidLoginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the id of a login is 64 lower-case hexadecimal digits")
    }
}

impl std::error::Error for InvalidLoginId {}

impl TryFrom<String> for LoginId {
    type Error = InvalidLoginId;

    fn try_from(text: String) -> Result<Self, InvalidLoginId> {
        Self::parse(&text).ok_or(InvalidLoginId)
    }
}

impl From<LoginId> for String {
    fn from(id: LoginId) -> Self {
        id.0
    }
}

impl fmt::Display for LoginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The subject of a poll. In keys it has the form `<kind>:<id>`, or `app`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subject {
    /// One Page, read with its own token.
    Page(PageId),
    /// All Pages of one connection, read through `/me/accounts`.
    Connection(UserId),
    /// The token of one person, which is inspected.
    Token(UserId),
    /// A login that is being completed: its token is exchanged.
    Login(LoginId),
    /// The Page subscription of the app on one Page.
    PageSubscription(PageId),
    /// The app subscription: callback address and fields.
    App,
}

impl Subject {
    /// Parses the form that `Display` writes. Returns `None` if `text` does not have it.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "app" {
            return Some(Self::App);
        }
        let (kind, id) = text.split_once(':')?;
        match kind {
            "page" => PageId::parse(id).ok().map(Self::Page),
            "connection" => UserId::parse(id).ok().map(Self::Connection),
            "token" => UserId::parse(id).ok().map(Self::Token),
            "login" => LoginId::parse(id).map(Self::Login),
            "page_subscription" => PageId::parse(id).ok().map(Self::PageSubscription),
            _ => None,
        }
    }

    /// Returns the kind alone, for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Page(_) => "page",
            Self::Connection(_) => "connection",
            Self::Token(_) => "token",
            Self::Login(_) => "login",
            Self::PageSubscription(_) => "page_subscription",
            Self::App => "app",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(id) => write!(f, "page:{id}"),
            Self::Connection(id) => write!(f, "connection:{id}"),
            Self::Token(id) => write!(f, "token:{id}"),
            Self::Login(id) => write!(f, "login:{id}"),
            Self::PageSubscription(id) => write!(f, "page_subscription:{id}"),
            Self::App => f.write_str("app"),
        }
    }
}

/// The error for a text that is not a [`Subject`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidSubject;

impl fmt::Display for InvalidSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a subject has the form <kind>:<id>, as in page:1170558113")
    }
}

impl std::error::Error for InvalidSubject {}

impl TryFrom<String> for Subject {
    type Error = InvalidSubject;

    fn try_from(text: String) -> Result<Self, InvalidSubject> {
        Self::parse(&text).ok_or(InvalidSubject)
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_parses(text: &str, is_accepted: bool) {
        assert_eq!(PageId::parse(text).is_ok(), is_accepted, "{text:?}");
    }

    #[test]
    fn a_page_id_is_one_to_twenty_ascii_digits() {
        assert_parses("1", true);
        assert_parses("1170558113", true);
        assert_parses("12345678901234567890", true);
        assert_parses("123456789012345678901", false);
        assert_parses("", false);
        assert_parses("0", false);
        assert_parses("000", false);
        assert_parses("-1", false);
        assert_parses("../1", false);
        assert_parses("*", false);
        assert_parses("１２３", false);
        assert_parses("1 ", false);
    }

    #[test]
    fn a_subject_is_parsed_from_its_own_text_and_from_no_other() {
        let login = "0a".repeat(32);
        for text in [
            "page:1",
            "connection:2",
            "token:2",
            "page_subscription:3",
            "app",
        ] {
            assert_eq!(Subject::parse(text).unwrap().to_string(), text);
        }
        assert!(Subject::parse(&format!("login:{login}")).is_some());
        for text in [
            "", "page:", "page:0", "app:1", "login:0a", "tokens:1", "page:1:2",
        ] {
            assert_eq!(Subject::parse(text), None, "{text}");
        }
    }
}
