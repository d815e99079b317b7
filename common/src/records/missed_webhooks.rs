//! Counts the changes that webhooks announced, for each field and local day, and stores a record
//! for each unannounced change.
//!
//! Invariant: a count changes in the commit that changes the Page, so a redelivered webhook is
//! never counted twice. Whether an unannounced change is missed is decided when a report is made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::announcements::UnannouncedChange;
use model::field::FieldName;
use model::id::PageId;
use model::missed_webhooks::{Finding, FindingKind};
use model::time::HostTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{load_all, load_chunk, put_write, write_records};
use crate::daily_schedule::DailySchedule;
use crate::store::{RecordKey, RecordKind, RecordWrite, Store, StoreError, StoredPage, Versioned};

/// How many local days of counts are stored.
pub const DAYS: usize = 90;
const TTL: Duration = Duration::from_secs(DAYS as u64 * 24 * 3600);
/// The name under which the first reads of all fields are counted together, because every new Page
/// has a first read of each field.
const ALL_FIELDS: &str = "_all";

/// A change that a read found and that no notification had announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnannouncedRecord {
    /// The Page that changed.
    pub page: PageId,
    /// The field that changed.
    pub field: FieldName,
    /// The local day on which the change was found.
    pub day: String,
    /// The times of the change.
    #[serde(flatten)]
    pub change: UnannouncedChange,
}

fn change_key(page: &PageId, field: &FieldName, change: &UnannouncedChange) -> RecordKey {
    RecordKey::new(
        RecordKind::UnannouncedChange,
        format!("{page}.{field}.{}", change.found_stamp),
    )
}

/// Returns the beginning of the record ids of all unannounced changes of a Page.
pub fn page_prefix(page: &PageId) -> String {
    format!("{page}.")
}

/// Returns the writes that count and store the findings about a Page. They go into the commit
/// that changes the Page.
pub fn finding_writes(
    schedule: &DailySchedule,
    page: &PageId,
    findings: &[Finding],
    now: HostTime,
) -> Vec<RecordWrite> {
    let mut writes = Vec::new();
    let mut counts: BTreeMap<(String, &str, &str), i64> = BTreeMap::new();
    for Finding { field, kind } in findings {
        let today = || schedule.local_day(now);
        let (day, field, name) = match kind {
            FindingKind::Captured => (today(), field.as_str(), "captured"),
            FindingKind::Initial => (today(), ALL_FIELDS, "initial"),
            FindingKind::Unannounceable => (today(), field.as_str(), "unannounceable"),
            FindingKind::Late(change) => {
                let key = change_key(page, field, change);
                let expected = None;
                writes.push(RecordWrite::Delete { key, expected });
                // A late change is counted on the day on which it was found.
                (schedule.local_day(change.found_at), field.as_str(), "late")
            }
            FindingKind::Unannounced(change) => {
                let record = UnannouncedRecord {
                    page: page.clone(),
                    field: field.clone(),
                    day: today(),
                    change: *change,
                };
                writes.push(put_write(
                    change_key(page, field, change),
                    &record,
                    None,
                    Some(TTL),
                ));
                continue;
            }
        };
        *counts.entry((day, field, name)).or_default() += 1;
    }
    writes.extend(counts.into_iter().map(|((day, field, name), n)| {
        let key = RecordKey::new(RecordKind::ChangeCount, format!("{day}.{field}.{name}"));
        RecordWrite::Add { key, n }
    }));
    writes
}

/// Returns the metric label and the number of the findings behind these writes. The label of a new
/// unannounced change is `unannounced`.
pub fn finding_labels(writes: &[RecordWrite]) -> impl Iterator<Item = (&'static str, u64)> {
    const NAMES: [&str; 4] = ["captured", "late", "initial", "unannounceable"];
    writes.iter().filter_map(|write| match write {
        RecordWrite::Put { key, .. } if key.kind == RecordKind::UnannouncedChange => {
            Some(("unannounced", 1))
        }
        RecordWrite::Add { key, n } if key.kind == RecordKind::ChangeCount => {
            let name = NAMES.into_iter().find(|name| key.id.ends_with(name))?;
            Some((name, n.unsigned_abs()))
        }
        _ => None,
    })
}

/// The numbers of changes that webhooks announced, and of those that they did not announce.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Counts {
    /// Changes that were announced before a read found them.
    pub captured: u64,
    /// Changes that were announced after a read had found them.
    pub late: u64,
    /// Changes that were not announced within an hour after a read had found them.
    pub missed: u64,
    /// Unannounced changes that a read found less than an hour ago.
    pub open: u64,
    /// (captured + late) / (captured + late + missed); null if the divisor is zero.
    pub ratio: Option<f64>,
}

impl Counts {
    fn compute_ratio(&mut self) {
        let announced = self.captured + self.late;
        let all = announced + self.missed;
        #[expect(clippy::cast_precision_loss, reason = "a ratio of counts")]
        let ratio = || announced as f64 / all as f64;
        self.ratio = (all > 0).then(ratio);
    }
}

/// The counts of one local day.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct DayReport {
    /// All fields together.
    #[serde(flatten)]
    pub all: Counts,
    /// The counts of each field, by its Graph name.
    pub fields: BTreeMap<String, Counts>,
}

/// A report about the changes of several local days.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// All fields and days together.
    pub all: Counts,
    /// First reads of a field, which cannot be compared with an earlier read.
    pub initial: u64,
    /// Changes of fields for which Facebook has no webhook.
    pub unannounceable: u64,
    /// The counts of each field, by its Graph name.
    pub fields: BTreeMap<String, Counts>,
    /// The counts of each local day.
    pub days: BTreeMap<String, DayReport>,
    /// The silent Pages: a change was missed, and no webhook was sent for the Page since.
    pub silent_pages: Vec<PageId>,
    /// Every change that no webhook has announced, the oldest first.
    pub unannounced: Vec<UnannouncedRecord>,
}

/// Returns the report about the local days from `from` on, as it is at `now`.
pub async fn report(store: &dyn Store, from: &str, now: HostTime) -> Result<Report, StoreError> {
    let mut report = Report::default();
    for (id, Versioned { value, .. }) in load_all::<u64>(store, RecordKind::ChangeCount, "").await?
    {
        let mut parts = id.splitn(3, '.');
        let (Some(day), Some(field), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if day >= from {
            report.add(day, field, name, value);
        }
    }
    report.unannounced = unannounced_since(store, from).await?;
    report
        .unannounced
        .sort_by_key(|record| record.change.found_at);
    for record in report.unannounced.clone() {
        let is_missed = record.change.is_missed(now);
        let name = if is_missed { "missed" } else { "open" };
        report.add(&record.day, record.field.as_str(), name, 1);
    }
    report.silent_pages = silent_of(store, &report.unannounced, now).await?;
    report.all.compute_ratio();
    report.fields.values_mut().for_each(Counts::compute_ratio);
    for day in report.days.values_mut() {
        day.all.compute_ratio();
        day.fields.values_mut().for_each(Counts::compute_ratio);
    }
    Ok(report)
}

impl Report {
    /// Adds `n` to the count `name` of a field on a day.
    fn add(&mut self, day: &str, field: &str, name: &str, n: u64) {
        let add_to = |counts: &mut Counts| match name {
            "captured" => counts.captured += n,
            "late" => counts.late += n,
            "missed" => counts.missed += n,
            _ => counts.open += n,
        };
        match name {
            "initial" => self.initial += n,
            "unannounceable" => self.unannounceable += n,
            "captured" | "late" | "missed" | "open" => {
                add_to(&mut self.all);
                add_to(self.fields.entry(field.to_owned()).or_default());
                let day = self.days.entry(day.to_owned()).or_default();
                add_to(&mut day.all);
                add_to(day.fields.entry(field.to_owned()).or_default());
            }
            _ => {}
        }
    }
}

/// Returns the unannounced changes of the local days from `from` on.
async fn unannounced_since(
    store: &dyn Store,
    from: &str,
) -> Result<Vec<UnannouncedRecord>, StoreError> {
    let (mut found, mut after) = (Vec::new(), None);
    while let Some(chunk) =
        load_chunk::<UnannouncedRecord>(store, RecordKind::UnannouncedChange, "", &mut after)
            .await?
    {
        let records = chunk.into_iter().map(|(_, stored)| stored.value);
        found.extend(records.filter(|record| record.day.as_str() >= from));
    }
    Ok(found)
}

/// Returns the silent Pages of a [`report`], without its counts.
pub async fn silent_pages(
    store: &dyn Store,
    from: &str,
    now: HostTime,
) -> Result<Vec<PageId>, StoreError> {
    let unannounced = unannounced_since(store, from).await?;
    silent_of(store, &unannounced, now).await
}

/// Returns the Pages with a missed change that are silent at `now`.
async fn silent_of(
    store: &dyn Store,
    unannounced: &[UnannouncedRecord],
    now: HostTime,
) -> Result<Vec<PageId>, StoreError> {
    let missed = unannounced
        .iter()
        .filter(|record| record.change.is_missed(now));
    let pages: BTreeSet<PageId> = missed.map(|record| record.page.clone()).collect();
    let pages: Vec<PageId> = pages.into_iter().collect();
    let mut silent = Vec::new();
    for ids in pages.chunks(200) {
        for (id, stored) in ids.iter().zip(store.load_pages(ids).await?) {
            if matches!(&stored.value, StoredPage::Page(page) if page.is_silent(now)) {
                silent.push(id.clone());
            }
        }
    }
    Ok(silent)
}

/// Deletes the counts of the local days before `from`. Records of unannounced changes are not
/// deleted here, because they expire.
pub async fn prune(store: &dyn Store, from: &str) -> Result<(), StoreError> {
    let old: Vec<RecordWrite> = load_all::<u64>(store, RecordKind::ChangeCount, "")
        .await?
        .into_iter()
        .filter(|(id, _)| id.as_str() < from)
        .map(|(id, stored)| RecordWrite::Delete {
            key: RecordKey::new(RecordKind::ChangeCount, id),
            expected: Some(stored.version),
        })
        .collect();
    if !old.is_empty() {
        write_records(store, old).await?;
    }
    Ok(())
}
