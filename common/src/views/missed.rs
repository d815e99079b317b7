//! The JSON of missed webhooks.

use std::collections::BTreeMap;

use model::field::FieldName;
use model::id::PageId;
use model::time::HostTime;
use serde::Serialize;
use utoipa::ToSchema;

use crate::records::missed_webhooks::{Counts, DayReport, Report, UnannouncedRecord};
use crate::timestamp::rfc3339;

/// A report about the changes that webhooks announced, and those that they did not announce.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MissedView {
    /// All fields and days together.
    #[serde(flatten)]
    pub all: Counts,
    /// How many reads were the first read of a field, without an earlier read to compare with.
    pub initial: u64,
    /// How many changes were of fields for which Facebook has no webhook.
    pub unannounceable: u64,
    /// The counts of each field, by its Graph name.
    pub fields: BTreeMap<String, Counts>,
    /// The counts of each local day.
    pub days: BTreeMap<String, DayReport>,
    /// The silent Pages: a change was missed, and no webhook was sent for the Page since.
    #[schema(value_type = Vec<String>)]
    pub silent_pages: Vec<PageId>,
    /// Every change that no webhook has announced, the oldest first.
    pub changes: Vec<UnannouncedChangeView>,
}

/// A change that no webhook has announced.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UnannouncedChangeView {
    /// The id of the Page.
    #[schema(value_type = String)]
    pub page_id: PageId,
    /// The Graph name of the field.
    #[schema(value_type = String)]
    pub field: FieldName,
    /// The stamp of the last read before the change, on Facebook's clock.
    pub changed_after: String,
    /// The stamp of the first read after the change, on Facebook's clock.
    pub changed_before: String,
    /// Whether the change already counts as missed.
    pub state: ChangeState,
}

/// Whether an unannounced change already counts as missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeState {
    /// The change was found less than an hour ago, and its webhook is still awaited.
    Open,
    /// The webhook did not arrive within an hour.
    Missed,
}

/// Returns a report as it is at `now`.
pub fn missed_view(report: &Report, now: HostTime) -> MissedView {
    let change = |record: &UnannouncedRecord| UnannouncedChangeView {
        page_id: record.page.clone(),
        field: record.field.clone(),
        changed_after: rfc3339(record.change.previous_read_stamp),
        changed_before: rfc3339(record.change.found_stamp),
        state: if record.change.is_missed(now) {
            ChangeState::Missed
        } else {
            ChangeState::Open
        },
    };
    MissedView {
        all: report.all.clone(),
        initial: report.initial,
        unannounceable: report.unannounceable,
        fields: report.fields.clone(),
        days: report.days.clone(),
        silent_pages: report.silent_pages.clone(),
        changes: report.unannounced.iter().map(change).collect(),
    }
}
