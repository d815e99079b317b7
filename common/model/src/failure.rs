//! The last failed attempt to read a subject, as it is stored and shown.
//!
//! Invariant: a failure contains no token, because the text of Facebook is masked before it is stored.

use serde::{Deserialize, Serialize};

use crate::time::HostTime;

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When the attempt failed, on this host's clock.
    pub at: HostTime,
    /// The reason, in the words of pagesync.
    pub reason: String,
    /// What a person can do about it.
    pub remedy: String,
    /// The error that Facebook reported; `None` if Facebook reported none, for example because it did
    /// not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<ReportedError>,
}

/// An error as Facebook reported it. Source: "Handling errors" of the Graph API.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReportedError {
    /// The member `code`.
    pub code: Option<u64>,
    /// The member `error_subcode`.
    pub subcode: Option<u64>,
    /// The member `message`, in which everything that could be a token is masked; `None` if it is
    /// missing.
    pub message: Option<String>,
    /// The member `fbtrace_id`, by which Meta's support finds the call.
    pub fbtrace_id: Option<String>,
}

/// The length of a text, in characters, from which on it could be a token.
const MIN_TOKEN_LENGTH: usize = 24;
/// The longest message that is stored, in characters.
const MAX_MESSAGE_LENGTH: usize = 400;
/// The longest trace id that is stored, in characters.
const MAX_TRACE_ID_LENGTH: usize = 64;

impl ReportedError {
    /// Returns an error with a masked and shortened message.
    pub fn new(
        code: Option<u64>,
        subcode: Option<u64>,
        message: Option<&str>,
        fbtrace_id: Option<&str>,
    ) -> Self {
        let is_trace_id = |id: &&str| {
            (1..=MAX_TRACE_ID_LENGTH).contains(&id.len())
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_-+/=".contains(&b))
        };
        Self {
            code,
            subcode,
            message: message.filter(|text| !text.is_empty()).map(mask),
            fbtrace_id: fbtrace_id.filter(is_trace_id).map(ToOwned::to_owned),
        }
    }
}

/// Returns a text without control characters, in which every long word of letters and digits that
/// contains a digit is replaced, because it could be a token. The text ends after
/// [`MAX_MESSAGE_LENGTH`] characters.
fn mask(text: &str) -> String {
    let is_token_char = |c: char| c.is_ascii_alphanumeric() || "_-|.%".contains(c);
    let (mut masked, mut word) = (String::new(), String::new());
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if is_token_char(c) {
            word.push(c);
        } else {
            push_word(&mut masked, &mut word);
            masked.push(c);
        }
    }
    push_word(&mut masked, &mut word);
    match masked.char_indices().nth(MAX_MESSAGE_LENGTH) {
        Some((end, _)) => format!("{} [shortened]", &masked[..end]),
        None => masked,
    }
}

/// Appends a word to `text`, or its replacement, and clears it.
fn push_word(text: &mut String, word: &mut String) {
    let has_digit = word.bytes().any(|b| b.is_ascii_digit());
    // The token of an app consists of its id, a bar and its secret.
    let could_be_token = word.contains('|') || (word.len() >= MIN_TOKEN_LENGTH && has_digit);
    text.push_str(if could_be_token { "[masked]" } else { word });
    word.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_stored_without_tokens_and_control_characters() {
        for (message, expected) in [
            (
                "Error validating access token: Session has expired on Friday, 06-Nov-26 04:00:00 PST.",
                "Error validating access token: Session has expired on Friday, 06-Nov-26 04:00:00 PST.",
            ),
            (
                "Malformed access token EAAB0123456789abcdefZCZCZ\u{1b}[31m",
                "Malformed access token [masked] [31m",
            ),
            (
                "Invalid OAuth token 174829003346|0123456789abcdef",
                "Invalid OAuth token [masked]",
            ),
            (
                "(#200) requires pages_read_engagement and pages_manage_metadata_of_the_page",
                "(#200) requires pages_read_engagement and pages_manage_metadata_of_the_page",
            ),
        ] {
            let error = ReportedError::new(Some(190), None, Some(message), None);
            assert_eq!(error.message.as_deref(), Some(expected));
        }
        let long = ReportedError::new(None, None, Some(&"ä ".repeat(900)), None);
        assert!(long.message.unwrap().chars().count() < 500);
    }

    #[test]
    fn a_trace_id_with_other_characters_is_left_out() {
        let trace = |id| ReportedError::new(None, None, None, Some(id)).fbtrace_id;
        assert_eq!(trace("AbC-12_x=").as_deref(), Some("AbC-12_x="));
        assert_eq!(trace("a b"), None);
        assert_eq!(trace(""), None);
    }
}
