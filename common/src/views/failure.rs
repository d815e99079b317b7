//! The JSON of the last failed attempt to read a Page or a connection.

use model::failure::{Failure, ReportedError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::timestamp::rfc3339;

/// A failed attempt.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FailureView {
    /// When the attempt failed, on this host's clock.
    pub failed_at: String,
    /// The reason, in the words of pagesync.
    pub reason: String,
    /// What a person can do about it.
    pub fix: String,
    /// The error that Facebook reported; null if Facebook reported none.
    pub facebook: Option<ReportedErrorView>,
}

/// An error as Facebook reported it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ReportedErrorView {
    /// The code of the error.
    pub code: Option<u64>,
    /// The subcode of the error.
    pub subcode: Option<u64>,
    /// The sentence of Facebook, in which everything that could be a token is masked.
    pub message: Option<String>,
    /// The id by which Meta's support finds the call.
    pub fbtrace_id: Option<String>,
}

/// Returns a failure as JSON shows it.
pub fn failure_view(failure: &Failure) -> FailureView {
    let reported = |reported: &ReportedError| ReportedErrorView {
        code: reported.code,
        subcode: reported.subcode,
        message: reported.message.clone(),
        fbtrace_id: reported.fbtrace_id.clone(),
    };
    FailureView {
        failed_at: rfc3339(failure.at),
        reason: failure.reason.clone(),
        fix: failure.remedy.clone(),
        facebook: failure.reported.as_ref().map(reported),
    }
}

/// Returns a failure in sentences: the reason, what Facebook said, and what to do.
pub fn failure_text(failure: &Failure) -> String {
    let mut text = failure.reason.clone();
    if let Some(reported) = &failure.reported {
        text.push_str("; ");
        text.push_str(&reported_text(reported));
    }
    format!("{text}. Fix: {}", failure.remedy)
}

/// Returns what Facebook reported as a part of a sentence.
pub fn reported_text(reported: &ReportedError) -> String {
    let number = |name: &str, number: Option<u64>| number.map(|number| format!("{name} {number}"));
    let trace = reported.fbtrace_id.as_ref();
    let parts = [
        number("code", reported.code),
        number("subcode", reported.subcode),
        trace.map(|id| format!("fbtrace_id {id}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let said = match &reported.message {
        Some(message) => format!("Facebook said \"{message}\""),
        None => "Facebook gave no text".to_owned(),
    };
    if parts.is_empty() {
        said
    } else {
        format!("{said} ({})", parts.join(", "))
    }
}
