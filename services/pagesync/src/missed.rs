//! `pagesync missed`: reports how many changes webhooks announced, and which changes they did not.

use std::fmt::Write as _;

use common::clock::Clock;
use common::config::Config;
use common::records::missed_webhooks::{self, Counts};
use common::store::Store;
use common::views::missed::{ChangeState, MissedView, UnannouncedChangeView, missed_view};
use model::announcements::NOTIFICATION_GRACE;
use model::id::PageId;

use crate::output::{self, Format, to_json};

/// The largest number of changes, and of Pages, that are shown.
const MAX_SHOWN: usize = 20;

/// Prints the report of the last `days` local days.
pub async fn run(
    config: &Config,
    store: &dyn Store,
    days: u32,
    format: Format,
) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let first_day = config.daily_schedule.first_of_days(days, now);
    let report = missed_webhooks::report(store, &first_day, now).await?;
    let view = missed_view(&report, now);
    output::print(&output::format_object(format, &to_json(&view), || {
        text(&view)
    }))
}

fn counts_cells(name: &str, counts: &Counts) -> Vec<String> {
    let ratio = counts
        .ratio
        .map_or("-".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0));
    let numbers = [counts.captured, counts.late, counts.missed, counts.open];
    let mut cells = vec![name.to_owned()];
    cells.extend(numbers.iter().map(ToString::to_string));
    cells.push(ratio);
    cells
}

fn change_cells(change: &UnannouncedChangeView) -> Vec<String> {
    let state = match change.state {
        ChangeState::Missed => "missed",
        ChangeState::Open => "open",
    };
    vec![
        change.page_id.to_string(),
        change.field.to_string(),
        change.changed_after.clone(),
        change.changed_before.clone(),
        state.to_owned(),
    ]
}

/// Returns the report as tables.
pub fn text(view: &MissedView) -> String {
    let header = |first| [first, "captured", "late", "missed", "open", "ratio"];
    let by_field = view
        .fields
        .iter()
        .map(|(name, counts)| counts_cells(name, counts));
    let by_day = view
        .days
        .iter()
        .map(|(day, counts)| counts_cells(day, &counts.all));
    let fields = by_field.chain([counts_cells("all", &view.all)]);
    let mut text = format!(
        "{}\n\n{}\n\n{} first reads of fields, {} changes of fields that have no webhook. A change is open for {} minutes, then it is missed.\n",
        output::table(&header("field"), fields),
        output::table(&header("day"), by_day),
        view.initial,
        view.unannounceable,
        NOTIFICATION_GRACE.as_secs() / 60,
    );
    // Writing to a String cannot fail.
    if !view.changes.is_empty() {
        let newest = view.changes.iter().rev().take(MAX_SHOWN).map(change_cells);
        let header = ["Page", "field", "changed after", "and before", "state"];
        let changes = output::table(&header, newest);
        let _ = writeln!(
            text,
            "\nChanges that no webhook announced, the newest {MAX_SHOWN}\n{changes}"
        );
    }
    if !view.silent_pages.is_empty() {
        let pages = view.silent_pages.iter().take(MAX_SHOWN);
        let pages: Vec<&str> = pages.map(PageId::as_str).collect();
        let _ = writeln!(
            text,
            "\n{} silent Pages (a change was missed, and no webhook has arrived since; pagesync checks their subscriptions), at most {MAX_SHOWN} of them here: {}",
            view.silent_pages.len(),
            pages.join(", ")
        );
    }
    text
}
