//! Names of things: Pages and the other subjects a poll can have.
//!
//! Invariant: a [`PageId`] is safe to put into a key, a path or a log line as it is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A Page's id: 1 to 20 ASCII digits, not all zero. On the wire Facebook writes it as a string,
/// in some webhooks as a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PageId(String);

/// Why a text is not a [`PageId`]. The text itself is not repeated: it may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidPageId;

impl fmt::Display for InvalidPageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Page id is 1 to 20 digits and not zero, as in 1170558113")
    }
}

impl std::error::Error for InvalidPageId {}

impl PageId {
    /// Takes a text as a Page id.
    pub fn parse(text: &str) -> Result<Self, InvalidPageId> {
        let digits = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if digits && text.bytes().any(|b| b != b'0') {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidPageId)
        }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PageId {
    type Error = InvalidPageId;

    fn try_from(text: String) -> Result<Self, InvalidPageId> {
        Self::parse(&text)
    }
}

impl From<PageId> for String {
    fn from(id: PageId) -> Self {
        id.0
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a poll is about. Written `page:<id>` wherever it is a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subject {
    /// One Page, read with its own token.
    Page(PageId),
}

impl Subject {
    /// Takes a text in the form of its `Display`.
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.strip_prefix("page:")?;
        PageId::parse(id).ok().map(Self::Page)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(id) => write!(f, "page:{id}"),
        }
    }
}

impl TryFrom<String> for Subject {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| "a subject is written page:<id>".to_owned())
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

    fn check(text: &str, accepted: bool) {
        assert_eq!(PageId::parse(text).is_ok(), accepted, "{text:?}");
    }

    #[test]
    fn a_page_id_is_one_to_twenty_ascii_digits() {
        check("1", true);
        check("1170558113", true);
        check("12345678901234567890", true);
        check("123456789012345678901", false);
        check("", false);
        check("0", false);
        check("000", false);
        check("-1", false);
        check("../1", false);
        check("*", false);
        check("１２３", false);
        check("1 ", false);
    }
}
