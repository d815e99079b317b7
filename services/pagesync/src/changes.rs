//! `pagesync changes`: the change feed, the newest entries last.

use anyhow::{Context as _, bail};
use common::store::{Changes, Cursor, Store};
use common::views::page::feed_change_view;
use model::field::FieldName;

use crate::output::{Format, LIST_CHUNK, Row, print_listing};

/// Prints the entries after the cursor `after`; without a cursor, the newest `limit` entries.
pub async fn run(
    store: &dyn Store,
    after: Option<&str>,
    limit: usize,
    format: Format,
) -> anyhow::Result<()> {
    let start = after
        .map(|text| Cursor::parse(text).context("a cursor has the form <epoch>.<number>"))
        .transpose()?;
    let mut rows: Vec<Row> = Vec::new();
    let mut cursor = start.clone();
    loop {
        let entries = match store.changes_after(cursor.as_ref(), LIST_CHUNK).await? {
            Changes::Entries(entries) => entries,
            Changes::Trimmed(newest) => bail!(
                "the entries after this cursor are no longer stored: list all Pages, then go on after {newest}"
            ),
        };
        let Some((last, _)) = entries.last() else {
            break;
        };
        cursor = Some(last.clone());
        rows.extend(entries.iter().map(|(cursor, entry)| {
            let view = feed_change_view(cursor, entry);
            let fields: Vec<&str> = view.fields.iter().map(FieldName::as_str).collect();
            let cells = vec![
                view.cursor.clone(),
                view.received_at.clone(),
                view.page_id.to_string(),
                view.version.to_string(),
                view.cause.name().to_owned(),
                fields.join(", "),
            ];
            Row::new(cells, &view)
        }));
        if start.is_some() && rows.len() >= limit {
            break;
        }
        // Without a cursor only the newest entries are printed, so older ones need no memory.
        if start.is_none() && rows.len() > limit {
            rows.drain(..rows.len() - limit);
        }
    }
    rows.truncate(limit);
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
