//! The entries of the due index, also those of subjects that this build does not know.
//!
//! Invariant: an unknown subject is claimed like any other one, so that it does not stay in front of
//! the others, and it is reported.

use model::id::Subject;
use model::job::Claim;
use model::queue_name::QueueName;
use model::time::HostTime;

/// An entry of the due index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueEntry {
    /// The stored text of the subject.
    pub text: String,
    /// The subject; `None` if this build does not know its kind, because a newer version of
    /// pagesync wrote it.
    pub subject: Option<Subject>,
    /// When the subject is due, on this host's clock.
    pub due_at: HostTime,
}

impl DueEntry {
    /// Decodes an entry.
    pub fn new(text: String, due_at: HostTime) -> Self {
        Self {
            subject: Subject::parse(&text),
            text,
            due_at,
        }
    }
}

/// The entries of the due index that [`crate::store::Store::claim_due`] has claimed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimedEntries {
    /// The claims of the known subjects.
    pub claims: Vec<Claim>,
    /// The stored texts of the subjects that this build does not know.
    pub unknown: Vec<String>,
}

impl ClaimedEntries {
    /// Separates known from unknown subjects.
    pub fn new(queue: QueueName, entries: impl IntoIterator<Item = DueEntry>) -> Self {
        let mut claimed = Self::default();
        for DueEntry {
            text,
            subject,
            due_at,
        } in entries
        {
            match subject {
                Some(subject) => claimed.claims.push(Claim {
                    subject,
                    queue,
                    due_at,
                }),
                None => claimed.unknown.push(text),
            }
        }
        claimed
    }

    /// Returns the number of claimed entries.
    pub fn len(&self) -> usize {
        self.claims.len() + self.unknown.len()
    }

    /// Returns whether no entry was due.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
