//! The JSON of dead letters.

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
    /// The reason why the job failed.
    pub reason: String,
}

/// A dead letter with the job that failed.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetterDetail {
    /// The dead letter as it appears in a list.
    #[serde(flatten)]
    pub dead_letter: DeadLetterView,
    /// The bytes that Facebook sent, as text, or the job as JSON.
    pub body: String,
}

/// Returns a dead letter as it appears in a list.
pub fn dead_letter_view(id: &str, dead_letter: &DeadLetter) -> DeadLetterView {
    DeadLetterView {
        id: id.to_owned(),
        failed_at: rfc3339(dead_letter.failed_at),
        reason: dead_letter.reason.clone(),
    }
}

/// Returns a dead letter with the job that failed.
pub fn dead_letter_detail(id: &str, dead_letter: &DeadLetter) -> DeadLetterDetail {
    DeadLetterDetail {
        dead_letter: dead_letter_view(id, dead_letter),
        body: body_text(dead_letter),
    }
}
