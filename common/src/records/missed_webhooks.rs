//! The numbers of the drift meter: how many changes webhooks announced, per field and local day, and
//! a record for each change that they did not.
//!
//! Invariant: a number moves in the commit that moves the Page, so a redelivery counts nothing twice.
//! Whether a gap is missed is decided when it is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::announcements::UnannouncedChange;
use model::field::FieldName;
use model::id::PageId;
use model::missed_webhooks::{Finding, FindingKind};
use model::time::HostTime;
use serde::{Deserialize, Serialize};

use super::{load_all, load_chunk, put_write, write_records};
use crate::daily_schedule::DailySchedule;
use crate::store::{RecordKey, RecordKind, RecordWrite, Store, StoreError, StoredPage, Versioned};

/// How many local days are kept.
pub const DAYS: usize = 90;
const TTL: Duration = Duration::from_secs(DAYS as u64 * 24 * 3600);
/// Counts first reads together: a new Page has twenty.
const ALL_FIELDS: &str = "_all";

/// A change that a read found and nothing had announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnannouncedRecord {
    /// Whose.
    pub page: PageId,
    /// Of which field.
    pub field: FieldName,
    /// The local day it was found on.
    pub day: String,
    /// When.
    #[serde(flatten)]
    pub change: UnannouncedChange,
}

fn change_key(page: &PageId, field: &FieldName, gap: &UnannouncedChange) -> RecordKey {
    RecordKey::new(
        RecordKind::UnannouncedChange,
        format!("{page}.{field}.{}", gap.found_by_read),
    )
}

/// What the ids of all gaps of a Page begin with.
pub fn page_prefix(page: &PageId) -> String {
    format!("{page}.")
}

/// The writes that belong to what the meter found of a Page; they go into its commit.
pub fn finding_writes(
    days: &DailySchedule,
    page: &PageId,
    findings: &[Finding],
    now: HostTime,
) -> Vec<RecordWrite> {
    let mut writes = Vec::new();
    let mut numbers: BTreeMap<(String, &str, &str), i64> = BTreeMap::new();
    for Finding { field, kind: event } in findings {
        let today = || days.local_day(now);
        let (day, field, name) = match event {
            FindingKind::Captured => (today(), field.as_str(), "captured"),
            FindingKind::Initial => (today(), ALL_FIELDS, "initial"),
            FindingKind::Unannounceable => (today(), field.as_str(), "unannounceable"),
            FindingKind::Late(gap) => {
                let key = change_key(page, field, gap);
                let expected = None;
                writes.push(RecordWrite::Delete { key, expected });
                // It belongs to the day its change was found on.
                (days.local_day(gap.found_at), field.as_str(), "late")
            }
            FindingKind::Unannounced(gap) => {
                let found = UnannouncedRecord {
                    page: page.clone(),
                    field: field.clone(),
                    day: today(),
                    change: *gap,
                };
                writes.push(put_write(
                    change_key(page, field, gap),
                    &found,
                    None,
                    Some(TTL),
                ));
                continue;
            }
        };
        *numbers.entry((day, field, name)).or_default() += 1;
    }
    writes.extend(numbers.into_iter().map(|((day, field, name), n)| {
        let key = RecordKey::new(RecordKind::ChangeCount, format!("{day}.{field}.{name}"));
        RecordWrite::Add { key, n }
    }));
    writes
}

/// What the meter found, as its writes say it, for metrics: `opened` is a new gap.
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

/// How many changes were announced.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    /// In time.
    pub captured: u64,
    /// After a read had found them.
    pub late: u64,
    /// Not within the grace.
    pub missed: u64,
    /// Not yet, and the grace runs.
    pub open: u64,
    /// (captured + late) / (captured + late + missed); null while there is nothing to divide.
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

/// How many changes of a day were announced.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DayReport {
    /// All fields together.
    #[serde(flatten)]
    pub all: Counts,
    /// By field.
    pub fields: BTreeMap<String, Counts>,
}

/// What the meter says of some days.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// All fields and days together.
    pub all: Counts,
    /// First reads of a field: nothing to compare with.
    pub initial: u64,
    /// Changes of fields that have no webhook.
    pub unannounceable: u64,
    /// By field.
    pub fields: BTreeMap<String, Counts>,
    /// By local day.
    pub days: BTreeMap<String, DayReport>,
    /// Pages that missed a change and were silent since.
    pub silent_pages: Vec<PageId>,
    /// Every gap, the oldest first.
    pub unannounced: Vec<UnannouncedRecord>,
}

/// Adds up the local days from `from` on, as it stands at `now`.
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
    let mut after = None;
    while let Some(some) =
        load_chunk::<UnannouncedRecord>(store, RecordKind::UnannouncedChange, "", &mut after)
            .await?
    {
        let found = some.into_iter().map(|(_, stored)| stored.value);
        report
            .unannounced
            .extend(found.filter(|found| found.day.as_str() >= from));
    }
    report
        .unannounced
        .sort_by_key(|found| found.change.found_at);
    let mut silent = BTreeSet::new();
    for found in report.unannounced.clone() {
        let missed = found.change.is_missed(now);
        let name = if missed { "missed" } else { "open" };
        report.add(&found.day, found.field.as_str(), name, 1);
        if missed {
            silent.insert(found.page);
        }
    }
    report.silent_pages = find_silent_pages(store, silent.into_iter().collect(), now).await?;
    report.all.compute_ratio();
    report.fields.values_mut().for_each(Counts::compute_ratio);
    for day in report.days.values_mut() {
        day.all.compute_ratio();
        day.fields.values_mut().for_each(Counts::compute_ratio);
    }
    Ok(report)
}

impl Report {
    fn add(&mut self, day: &str, field: &str, name: &str, n: u64) {
        let pick = |counts: &mut Counts| match name {
            "captured" => counts.captured += n,
            "late" => counts.late += n,
            "missed" => counts.missed += n,
            _ => counts.open += n,
        };
        match name {
            "initial" => self.initial += n,
            "unannounceable" => self.unannounceable += n,
            "captured" | "late" | "missed" | "open" => {
                pick(&mut self.all);
                pick(self.fields.entry(field.to_owned()).or_default());
                let day = self.days.entry(day.to_owned()).or_default();
                pick(&mut day.all);
                pick(day.fields.entry(field.to_owned()).or_default());
            }
            _ => {}
        }
    }
}

/// Which of these Pages are deaf.
async fn find_silent_pages(
    store: &dyn Store,
    pages: Vec<PageId>,
    now: HostTime,
) -> Result<Vec<PageId>, StoreError> {
    let mut deaf = Vec::new();
    for ids in pages.chunks(200) {
        for (id, stored) in ids.iter().zip(store.load_pages(ids).await?) {
            if matches!(&stored.value, StoredPage::Page(page) if page.is_silent(now)) {
                deaf.push(id.clone());
            }
        }
    }
    Ok(deaf)
}

/// Forgets the numbers of days before `from`. Gaps end by themselves.
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
