//! The ledger of daily polls: one row per connection and local day.

use std::time::Duration;

use model::id::UserId;
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::put_write;
use crate::store::{RecordKey, RecordKind, RecordWrite};

/// How long a row is kept.
const TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// A run that began later than this after its slot ran late.
pub const LATE_AFTER: Duration = Duration::from_secs(3600);
/// Days that are written as missed after a downtime, at most.
pub const MAX_MISSED_DAYS: usize = 30;

/// What became of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DailyPollResult {
    /// The poll ran in its slot.
    Ran,
    /// It ran, more than an hour after its slot.
    RanLate,
    /// It was due, and could not run: the connection was not usable.
    Skipped,
    /// Nothing of ours was up that day.
    Missed,
}

impl DailyPollResult {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ran => "ran",
            Self::RanLate => "ran_late",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        }
    }
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DailyPoll {
    /// Whose.
    pub connection: UserId,
    /// The local day, `2026-11-22`.
    pub day: String,
    /// What became of it.
    pub result: DailyPollResult,
    /// When it was due.
    pub slot: HostTime,
    /// When it ended; `None`: it did not run.
    pub ended_at: Option<HostTime>,
    /// How many Pages it read.
    pub pages: u64,
    /// How often it asked Facebook for result pages.
    pub calls: u64,
}

/// The write of a row.
pub fn daily_poll_write(run: &DailyPoll) -> RecordWrite {
    let key = RecordKey::new(
        RecordKind::DailyPoll,
        format!("{}.{}", run.day, run.connection),
    );
    put_write(key, run, None, Some(TTL))
}
