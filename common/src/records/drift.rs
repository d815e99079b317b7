//! The numbers of the drift meter: how many changes webhooks announced, per field and local day, and
//! a record for each change that they did not.
//!
//! Invariant: a number moves in the commit that moves the Page, so a redelivery counts nothing twice.
//! Whether a gap is missed is decided when it is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::drift::{Event, Finding, Gap};
use model::field::FieldName;
use model::id::PageId;
use model::time::Millis;
use serde::{Deserialize, Serialize};

use super::{all, chunk, put, write};
use crate::slots::Days;
use crate::store::{Key, Kind, RecordWrite, Store, StoreError, Stored, Versioned};

/// How many local days are kept.
pub const DAYS: usize = 90;
const TTL: Duration = Duration::from_secs(DAYS as u64 * 24 * 3600);
/// Counts first reads together: a new Page has twenty.
const ALL_FIELDS: &str = "_all";

/// A change that a read found and nothing had announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Whose.
    pub page: PageId,
    /// Of which field.
    pub field: FieldName,
    /// The local day it was found on.
    pub day: String,
    /// When.
    #[serde(flatten)]
    pub gap: Gap,
}

fn gap_key(page: &PageId, field: &FieldName, gap: &Gap) -> Key {
    Key::new(Kind::Gap, format!("{page}.{field}.{}", gap.read))
}

/// What the ids of all gaps of a Page begin with.
pub fn prefix(page: &PageId) -> String {
    format!("{page}.")
}

/// The writes that belong to what the meter found of a Page; they go into its commit.
pub fn writes(days: &Days, page: &PageId, findings: &[Finding], now: Millis) -> Vec<RecordWrite> {
    let mut writes = Vec::new();
    let mut numbers: BTreeMap<(String, &str, &str), i64> = BTreeMap::new();
    for Finding { field, event } in findings {
        let today = || days.day(now);
        let (day, field, name) = match event {
            Event::Captured => (today(), field.as_str(), "captured"),
            Event::Initial => (today(), ALL_FIELDS, "initial"),
            Event::Unannounceable => (today(), field.as_str(), "unannounceable"),
            Event::Late(gap) => {
                let key = gap_key(page, field, gap);
                let expected = None;
                writes.push(RecordWrite::Delete { key, expected });
                // It belongs to the day its change was found on.
                (days.day(gap.at), field.as_str(), "late")
            }
            Event::Opened(gap) => {
                let found = Found {
                    page: page.clone(),
                    field: field.clone(),
                    day: today(),
                    gap: *gap,
                };
                writes.push(put(gap_key(page, field, gap), &found, None, Some(TTL)));
                continue;
            }
        };
        *numbers.entry((day, field, name)).or_default() += 1;
    }
    writes.extend(numbers.into_iter().map(|((day, field, name), n)| {
        let key = Key::new(Kind::Drift, format!("{day}.{field}.{name}"));
        RecordWrite::Add { key, n }
    }));
    writes
}

/// What the meter found, as its writes say it, for metrics: `opened` is a new gap.
pub fn names(writes: &[RecordWrite]) -> impl Iterator<Item = (&'static str, u64)> {
    const NAMES: [&str; 4] = ["captured", "late", "initial", "unannounceable"];
    writes.iter().filter_map(|write| match write {
        RecordWrite::Put { key, .. } if key.kind == Kind::Gap => Some(("opened", 1)),
        RecordWrite::Add { key, n } if key.kind == Kind::Drift => {
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
    fn settle(&mut self) {
        let announced = self.captured + self.late;
        let all = announced + self.missed;
        #[expect(clippy::cast_precision_loss, reason = "a ratio of counts")]
        let ratio = || announced as f64 / all as f64;
        self.ratio = (all > 0).then(ratio);
    }
}

/// How many changes of a day were announced.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Day {
    /// All fields together.
    #[serde(flatten)]
    pub all: Counts,
    /// By field.
    pub fields: BTreeMap<String, Counts>,
}

/// What the meter says of some days.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// All fields and days together.
    #[serde(flatten)]
    pub all: Counts,
    /// First reads of a field: nothing to compare with.
    pub initial: u64,
    /// Changes of fields that have no webhook.
    pub unannounceable: u64,
    /// By field.
    pub fields: BTreeMap<String, Counts>,
    /// By local day.
    pub days: BTreeMap<String, Day>,
    /// Pages that missed a change and were silent since.
    pub deaf: Vec<PageId>,
    /// Every gap, the oldest first.
    pub gaps: Vec<Found>,
}

/// Adds up the local days from `from` on, as it stands at `now`.
pub async fn report(store: &dyn Store, from: &str, now: Millis) -> Result<Report, StoreError> {
    let mut report = Report::default();
    for (id, Versioned { value, .. }) in all::<u64>(store, Kind::Drift, "").await? {
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
    while let Some(some) = chunk::<Found>(store, Kind::Gap, "", &mut after).await? {
        let found = some.into_iter().map(|(_, held)| held.value);
        report
            .gaps
            .extend(found.filter(|found| found.day.as_str() >= from));
    }
    report.gaps.sort_by_key(|found| found.gap.at);
    let mut silent = BTreeSet::new();
    for found in report.gaps.clone() {
        let missed = found.gap.is_missed(now);
        let name = if missed { "missed" } else { "open" };
        report.add(&found.day, found.field.as_str(), name, 1);
        if missed {
            silent.insert(found.page);
        }
    }
    report.deaf = deaf(store, silent.into_iter().collect(), now).await?;
    report.all.settle();
    report.fields.values_mut().for_each(Counts::settle);
    for day in report.days.values_mut() {
        day.all.settle();
        day.fields.values_mut().for_each(Counts::settle);
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
async fn deaf(
    store: &dyn Store,
    pages: Vec<PageId>,
    now: Millis,
) -> Result<Vec<PageId>, StoreError> {
    let mut deaf = Vec::new();
    for ids in pages.chunks(200) {
        for (id, held) in ids.iter().zip(store.load(ids).await?) {
            if matches!(&held.value, Stored::Page(page) if page.is_deaf(now)) {
                deaf.push(id.clone());
            }
        }
    }
    Ok(deaf)
}

/// Forgets the numbers of days before `from`. Gaps end by themselves.
pub async fn prune(store: &dyn Store, from: &str) -> Result<(), StoreError> {
    let old: Vec<RecordWrite> = all::<u64>(store, Kind::Drift, "")
        .await?
        .into_iter()
        .filter(|(id, _)| id.as_str() < from)
        .map(|(id, held)| RecordWrite::Delete {
            key: Key::new(Kind::Drift, id),
            expected: Some(held.version),
        })
        .collect();
    if !old.is_empty() {
        write(store, old).await?;
    }
    Ok(())
}
