//! Dead letters as programs see them.

use serde::Serialize;

use crate::records::dead_letter::{DeadLetter, body_text};
use crate::timestamp::rfc3339;

/// A dead letter in a list.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetterView {
    /// The id of the dead letter.
    pub id: String,
    /// When the job failed for good, on this host's clock.
    pub failed_at: String,
    /// Why it failed.
    pub reason: String,
}

/// A dead letter with the job that failed.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetterDetail {
    /// The dead letter as in a list.
    #[serde(flatten)]
    pub letter: DeadLetterView,
    /// What Facebook sent, or the job as JSON.
    pub body: String,
}

/// Returns a dead letter as in a list.
pub fn dead_letter_view(id: &str, letter: &DeadLetter) -> DeadLetterView {
    DeadLetterView {
        id: id.to_owned(),
        failed_at: rfc3339(letter.failed_at),
        reason: letter.reason.clone(),
    }
}

/// Returns a dead letter with the job that failed.
pub fn dead_letter_detail(id: &str, letter: &DeadLetter) -> DeadLetterDetail {
    DeadLetterDetail {
        letter: dead_letter_view(id, letter),
        body: body_text(letter),
    }
}
