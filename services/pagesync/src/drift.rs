//! `pagesync drift`: which changes webhooks announced, and which only a read found.

use std::fmt::Write as _;
use std::time::Duration;

use common::config::Config;
use common::pages::rfc3339;
use common::records::drift::{self, Counts, Report};
use common::store::Store;
use model::drift::GRACE;
use model::id::PageId;
use model::time::Millis;
use serde_json::{Value as Json, json};

use crate::output::{self, Format};

/// Gaps and Pages shown.
const SHOWN: usize = 20;

/// Shows the last `days` local days as they stand at `now`.
pub async fn run(
    config: &Config,
    store: &dyn Store,
    (days, now): (u32, Millis),
    format: Format,
) -> anyhow::Result<()> {
    let back = Duration::from_secs(u64::from(days.saturating_sub(1)) * 24 * 3600);
    let first = Millis(now.0.saturating_sub(u64::try_from(back.as_millis())?));
    let report = drift::report(store, &config.days.day(first), now).await?;
    output::print(&output::one(format, &json(&report, now), || {
        table(&report, now)
    }))
}

fn json(report: &Report, now: Millis) -> Json {
    let mut json = json!(report);
    let gap = |found: &drift::Found| {
        json!({
            "page": found.page,
            "field": found.field,
            "after": rfc3339(found.gap.since),
            "before": rfc3339(found.gap.read),
            "missed": found.gap.is_missed(now),
        })
    };
    json["gaps"] = report.gaps.iter().map(gap).collect();
    json
}

/// The report for people.
pub fn table(report: &Report, now: Millis) -> String {
    let row = |name: &str, counts: &Counts| {
        let ratio = counts
            .ratio
            .map_or("-".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0));
        let numbers = [counts.captured, counts.late, counts.missed, counts.open];
        let numbers = numbers.iter().map(ToString::to_string);
        std::iter::once(name.to_owned())
            .chain(numbers)
            .chain([ratio])
            .collect::<Vec<_>>()
    };
    let header = |first| [first, "captured", "late", "missed", "open", "ratio"];
    let by_field = report.fields.iter().map(|(name, counts)| row(name, counts));
    let by_day = report
        .days
        .iter()
        .map(|(day, counts)| row(day, &counts.all));
    let fields = by_field.chain([row("all", &report.all)]);
    let mut text = format!(
        "{}\n\n{}\n\n{} first reads, {} changes of fields that have no webhook. A change is open for {} minutes, then missed.\n",
        output::table(&header("field"), fields),
        output::table(&header("day"), by_day),
        report.initial,
        report.unannounceable,
        GRACE.as_secs() / 60,
    );
    if !report.gaps.is_empty() {
        let newest = report.gaps.iter().rev().take(SHOWN).map(|found| {
            vec![
                found.page.to_string(),
                found.field.to_string(),
                rfc3339(found.gap.since),
                rfc3339(found.gap.read),
                if found.gap.is_missed(now) {
                    "missed"
                } else {
                    "open"
                }
                .to_owned(),
            ]
        });
        let header = ["Page", "field", "changed after", "and before", ""];
        let gaps = output::table(&header, newest);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\nNot announced, the newest {SHOWN}\n{gaps}");
    }
    if !report.deaf.is_empty() {
        let pages: Vec<&str> = report.deaf.iter().take(SHOWN).map(PageId::as_str).collect();
        let _ = writeln!(
            text,
            "\n{} Pages missed a change and were silent since; their subscriptions are looked at: {}",
            report.deaf.len(),
            pages.join(", ")
        );
    }
    text
}
