//! Prints results as tables or JSON.
//!
//! Invariant: commands write to standard output only through this module.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use comfy_table::Table;
use common::config::shown::ShownSetting;
use common::csv_lines::{csv_cell, csv_line};
pub use common::escape::escape_control;
use common::pages::COMMIT_BATCH;
use serde::Serialize;
use serde_json::Value as Json;

/// The format in which results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table, for people.
    Table,
    /// One JSON value.
    Json,
    /// One JSON value on each line.
    Ndjson,
    /// Comma-separated values, for spreadsheets. Lists only.
    Csv,
}

/// Writes text to standard output, and a line break if the text does not end with one.
pub fn print(text: &str) -> anyhow::Result<()> {
    print_if_open(text).map(drop)
}

/// Writes text as [`print`] does. Returns `false` if the reader has closed the pipe.
pub(crate) fn print_if_open(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    let end = if text.ends_with('\n') || text.is_empty() {
        ""
    } else {
        "\n"
    };
    match write!(out, "{text}{end}").and_then(|()| out.flush()) {
        // The reader, such as `head`, has closed the pipe because it needs no more.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => {
            written.context("cannot write to standard output")?;
            Ok(true)
        }
    }
}

/// Writes a message to standard error.
pub fn print_error(text: &str) {
    // There is no other place to report that standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "pagesync: {}", text.trim_end());
}

/// Shows on a terminal how many objects a command has worked through. Its line ends when this is
/// dropped. Nothing is shown if standard error is not a terminal, or if one batch is enough.
#[derive(Debug)]
pub struct Progress {
    objects: &'static str,
    total: usize,
    is_shown: bool,
}

impl Progress {
    /// Returns the progress of a command that works through `total` objects.
    pub fn new(objects: &'static str, total: usize) -> Self {
        Self {
            objects,
            total,
            is_shown: total > COMMIT_BATCH && std::io::stderr().is_terminal(),
        }
    }

    /// Shows that `done` objects are done.
    pub fn show(&mut self, done: usize) {
        self.write(&self.text(done));
    }

    /// Returns a text that replaces the previous one on its line.
    fn text(&self, done: usize) -> String {
        format!("\rpagesync: {done} of {} {}", self.total, self.objects)
    }

    fn write(&self, text: &str) {
        if self.is_shown {
            let mut err = std::io::stderr().lock();
            // The progress is not worth a failure of the command.
            let _ = write!(err, "{text}").and_then(|()| err.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.write("\n");
    }
}

/// Returns a JSON value as a table cell of at most `max` characters. Strings have no quotes.
pub fn cell(value: &Json, max: usize) -> String {
    let text = match value {
        Json::Null => "-".to_owned(),
        Json::String(text) => escape_control(text),
        other => escape_control(&other.to_string()),
    };
    if text.chars().count() <= max {
        return text;
    }
    let head: String = text.chars().take(max.saturating_sub(1)).collect();
    format!("{head}…")
}

/// One object of a list: its cells in a table and its JSON.
#[derive(Debug, Clone)]
pub struct Row {
    /// The cells, in the order of the table's header.
    pub cells: Vec<String>,
    /// The object.
    pub json: Json,
}

impl Row {
    /// Returns the row of `object`, shown as `cells` in a table.
    pub fn new(cells: Vec<String>, object: &impl Serialize) -> Self {
        Self {
            cells,
            json: to_json(object),
        }
    }
}

/// Returns an object as JSON.
pub fn to_json(object: &impl Serialize) -> Json {
    serde_json::to_value(object).unwrap_or_else(|error| unreachable!("a view encodes: {error}"))
}

/// Returns rows as text in `format`.
pub fn listing(format: Format, header: &[&str], rows: &[Row]) -> String {
    match format {
        Format::Table => table(header, rows.iter().map(|row| row.cells.clone())),
        Format::Json => pretty(&rows.iter().map(|row| row.json.clone()).collect()),
        Format::Ndjson => {
            let lines: Vec<String> = rows.iter().map(|row| row.json.to_string()).collect();
            lines.join("\n")
        }
        Format::Csv => csv(rows),
    }
}

/// Returns rows as CSV: one column for each member of the objects, whose own members are JSON.
fn csv(rows: &[Row]) -> String {
    let mut names: Vec<&String> = Vec::new();
    for name in rows
        .iter()
        .filter_map(|row| row.json.as_object())
        .flat_map(|object| object.keys())
    {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    // The members of a JSON object are in alphabetical order, and the id comes first in every list.
    names.sort_by_key(|name| *name != "id");
    let line = |row: &Row| {
        let cells: Vec<String> = names
            .iter()
            .map(|name| csv_cell(&row.json[name.as_str()]))
            .collect();
        csv_line(cells.iter().map(String::as_str))
    };
    let header = csv_line(names.iter().map(|name| name.as_str()));
    std::iter::once(header)
        .chain(rows.iter().map(line))
        .collect()
}

/// Returns one object in `format`. As a table, it is the result of `text`.
pub fn format_object(format: Format, json: &Json, text: impl FnOnce() -> String) -> String {
    match format {
        Format::Table => text(),
        Format::Json => pretty(json),
        Format::Ndjson => json.to_string(),
        Format::Csv => csv(&[Row {
            cells: Vec::new(),
            json: json.clone(),
        }]),
    }
}

/// How many objects a listing command loads from the store at once.
pub(crate) const LIST_CHUNK: usize = 500;

/// Prints rows in `format`.
pub(crate) fn print_listing(format: Format, header: &[&str], rows: &[Row]) -> anyhow::Result<()> {
    print(&listing(format, header, rows))
}

/// Returns the settings as text in `format`.
pub fn settings(format: Format, settings: &[ShownSetting]) -> String {
    let row = |setting: &ShownSetting| {
        let cells = vec![
            setting.setting.to_owned(),
            cell(&Json::from(setting.value.as_str()), 60),
            setting.origin.to_owned(),
        ];
        Row::new(cells, setting)
    };
    let rows: Vec<Row> = settings.iter().map(row).collect();
    listing(format, &["setting", "value", "origin"], &rows)
}

/// Returns rows as a table without lines between them.
pub fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

fn pretty(json: &Json) -> String {
    serde_json::to_string_pretty(json).unwrap_or_else(|_| json.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_name_of_a_page_cannot_move_the_cursor() {
        assert_eq!(
            escape_control("a\x1b[31mb\r\nc\u{202e}d"),
            "a\\u{1b}[31mb\\u{d}\\u{a}c\\u{202e}d"
        );
        assert_eq!(cell(&json!("abcdef"), 4), "abc…");
        assert_eq!(cell(&Json::Null, 4), "-");
    }

    #[test]
    fn each_progress_replaces_the_previous_one() {
        let progress = Progress::new("Pages", 250);
        assert_eq!(progress.text(100), "\rpagesync: 100 of 250 Pages");
    }
}
