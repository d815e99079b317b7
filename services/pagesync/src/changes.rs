//! `pagesync changes`: the change feed, the newest entries last.
//!
//! Invariant: with `--follow`, each change that is stored after the first shown one is shown once, or the
//! command fails because entries are missing.

use std::time::Duration;

use anyhow::{Context as _, bail};
use common::store::{Changes, Cursor, FeedEntry, Store};
use common::views::page::{FeedChangeView, FieldChangeView, feed_change_view};
use model::field::FieldName;

use crate::output::{self, Format, LIST_CHUNK, Row, cell, print_listing, to_json};

/// How often the feed is read with `--follow`.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

/// Prints the entries after the cursor `after`; without a cursor, the newest `limit` entries. With
/// `follows`, prints further entries as they are stored, until a signal ends the process.
pub async fn run(
    store: &dyn Store,
    after: Option<&str>,
    limit: usize,
    follows: bool,
    format: Format,
) -> anyhow::Result<()> {
    let start = after
        .map(|text| Cursor::parse(text).context("a cursor has the form <epoch>.<number>"))
        .transpose()?;
    if follows {
        return follow(store, start, format).await;
    }
    let mut views: Vec<FeedChangeView> = Vec::new();
    let mut cursor = start.clone();
    loop {
        let entries = next_entries(store, cursor.as_ref()).await?;
        let Some((last, _)) = entries.last() else {
            break;
        };
        cursor = Some(last.clone());
        let view = |(cursor, entry): &(Cursor, FeedEntry)| feed_change_view(cursor, entry);
        views.extend(entries.iter().map(view));
        if start.is_some() && views.len() >= limit {
            break;
        }
        // Without a cursor only the newest entries are printed, so older ones need no memory.
        if start.is_none() && views.len() > limit {
            views.drain(..views.len() - limit);
        }
    }
    views.truncate(limit);
    let rows: Vec<Row> = views.iter().map(row).collect();
    let header = [
        "cursor",
        "received at",
        "Page",
        "version",
        "cause",
        "fields",
    ];
    print_listing(format, &header, &rows)
}

/// Prints each entry after a cursor, or after the present end of the feed, when it is stored.
async fn follow(store: &dyn Store, start: Option<Cursor>, format: Format) -> anyhow::Result<()> {
    if format == Format::Csv {
        bail!("changes --follow has no CSV: use --output ndjson");
    }
    let mut cursor = match start {
        Some(cursor) => cursor,
        None => store.newest_cursor().await?,
    };
    loop {
        for (next, entry) in next_entries(store, Some(&cursor)).await? {
            let view = feed_change_view(&next, &entry);
            let text = match format {
                Format::Table => line(&view),
                Format::Csv | Format::Json | Format::Ndjson => to_json(&view).to_string(),
            };
            if !output::print_if_open(&text)? {
                return Ok(());
            }
            cursor = next;
        }
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

async fn next_entries(
    store: &dyn Store,
    cursor: Option<&Cursor>,
) -> anyhow::Result<Vec<(Cursor, FeedEntry)>> {
    match store.changes_after(cursor, LIST_CHUNK).await? {
        Changes::Entries(entries) => Ok(entries),
        Changes::Trimmed(newest) => bail!(
            "the entries after this cursor are no longer stored: list all Pages, then go on after {newest}"
        ),
    }
}

fn row(view: &FeedChangeView) -> Row {
    let fields: Vec<&str> = view.fields.iter().map(FieldName::as_str).collect();
    let cells = vec![
        view.cursor.clone(),
        view.received_at.clone(),
        view.page_id.to_string(),
        view.version.to_string(),
        view.cause.name().to_owned(),
        fields.join(", "),
    ];
    Row::new(cells, view)
}

/// Returns an entry as a line for people.
fn line(view: &FeedChangeView) -> String {
    let change = |change: &FieldChangeView| {
        let (before, after) = (cell(&change.before, 40), cell(&change.after, 40));
        format!("  {}: {before} -> {after}", change.field)
    };
    let status = view
        .status
        .map_or("?".to_owned(), |status| status.to_string());
    let head = format!(
        "{}  Page {} version {} ({}, {status})",
        view.received_at,
        view.page_id,
        view.version,
        view.cause.name()
    );
    let changes = view.changes.iter().flatten().map(change);
    let lines: Vec<String> = std::iter::once(head).chain(changes).collect();
    lines.join("\n")
}
