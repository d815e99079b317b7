//! The daily poll records: one for each connection and local day.

use std::time::Duration;

use model::id::UserId;
use model::time::HostTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::put_write;
use crate::store::{RecordKey, RecordKind, RecordWrite};

/// How long a daily poll record is stored.
const TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long after its daily slot a daily poll may run without counting as late.
pub const LATE_AFTER: Duration = Duration::from_secs(3600);
/// The largest number of days between a daily slot and its late poll for which
/// [`DailyPollResult::NotRun`] is recorded.
pub const MAX_NOT_RUN_DAYS: usize = 30;

/// The result of a daily poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DailyPollResult {
    /// The poll ran, at most [`LATE_AFTER`] after its daily slot.
    Ran,
    /// The poll ran more than [`LATE_AFTER`] after its daily slot.
    RanLate,
    /// The poll was due but could not run, because the connection could not be used.
    Skipped,
    /// The poll did not run, because pagesync did not run on that day.
    NotRun,
}

impl DailyPollResult {
    /// Returns the name of the result, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ran => "ran",
            Self::RanLate => "ran_late",
            Self::Skipped => "skipped",
            Self::NotRun => "not_run",
        }
    }
}

/// The daily poll of one connection on one local day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DailyPoll {
    /// The app-scoped id of the person.
    pub connection: UserId,
    /// The local day, as in `2026-11-22`.
    pub day: String,
    /// The result of the poll.
    pub result: DailyPollResult,
    /// The daily slot at which it was due, on this host's clock.
    pub slot: HostTime,
    /// When it ended, on this host's clock; `None` if it did not run.
    pub ended_at: Option<HostTime>,
    /// How many Pages it read.
    pub pages: u64,
    /// How many result pages it requested.
    pub calls: u64,
}

/// Returns the id of the person in the id of a daily poll record.
pub(super) fn user_in_id(id: &str) -> Option<&str> {
    id.rsplit_once('.').map(|(_, user)| user)
}

/// Returns the write of a daily poll record.
pub fn daily_poll_write(poll: &DailyPoll) -> RecordWrite {
    let key = RecordKey::new(
        RecordKind::DailyPoll,
        format!("{}.{}", poll.day, poll.connection),
    );
    put_write(key, poll, None, Some(TTL))
}
