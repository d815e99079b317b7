//! The JSON of dead letters.

use serde::Serialize;
use utoipa::ToSchema;

use crate::records::dead_letter::{DeadLetter, body_text};
use crate::store::Versioned;
use crate::timestamp::rfc3339;

/// A dead letter in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeadLetterView {
    /// The id of the dead letter.
    pub id: String,
    /// How often the dead letter was written.
    pub version: u64,
    /// When the job failed for good, on this host's clock.
    pub failed_at: String,
    /// The reason why the job failed.
    pub reason: String,
}

/// A dead letter with the job that failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeadLetterDetail {
    /// The dead letter as it appears in a list.
    #[serde(flatten)]
    pub dead_letter: DeadLetterView,
    /// The bytes that Facebook sent, as text, or the job as JSON.
    pub body: String,
}

/// Returns a dead letter as it appears in a list.
pub fn dead_letter_view(id: &str, stored: &Versioned<DeadLetter>) -> DeadLetterView {
    DeadLetterView {
        id: id.to_owned(),
        version: stored.version,
        failed_at: rfc3339(stored.value.failed_at),
        reason: stored.value.reason.clone(),
    }
}

/// Returns a dead letter with the job that failed.
pub fn dead_letter_detail(id: &str, stored: &Versioned<DeadLetter>) -> DeadLetterDetail {
    DeadLetterDetail {
        dead_letter: dead_letter_view(id, stored),
        body: body_text(&stored.value),
    }
}
