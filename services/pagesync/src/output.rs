//! Printing: the only place that writes to standard output and standard error.

use std::io::Write as _;

use anyhow::Context as _;
use clap::ValueEnum;
use comfy_table::Table;
use serde_json::{Value as Json, json};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Ndjson,
}

/// Writes to standard output.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let line = if text.ends_with('\n') || text.is_empty() {
        ""
    } else {
        "\n"
    };
    match write!(out, "{text}{line}").and_then(|()| out.flush()) {
        // The reader has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Writes to standard error.
pub fn complain(text: &str) {
    // There is nowhere left to complain.
    let _ = writeln!(std::io::stderr().lock(), "pagesync: {}", text.trim_end());
}

/// A text that may hold anything, made harmless for a terminal: control characters are shown as
/// their escapes.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control()
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
        {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A JSON value as a table cell: strings bare, at most `max` characters.
pub fn cell(value: &Json, max: usize) -> String {
    let text = match value {
        Json::Null => "-".to_owned(),
        Json::String(text) => harmless(text),
        other => harmless(&other.to_string()),
    };
    if text.chars().count() <= max {
        return text;
    }
    let head: String = text.chars().take(max.saturating_sub(1)).collect();
    format!("{head}…")
}

/// Rows in the format asked for; each row comes as cells and as JSON.
pub fn listing(format: Format, header: &[&str], rows: &[(Vec<String>, Json)]) -> String {
    match format {
        Format::Table => table(header, rows.iter().map(|(cells, _)| cells.clone())),
        Format::Json => pretty(&Json::Array(
            rows.iter().map(|(_, json)| json.clone()).collect(),
        )),
        Format::Ndjson => {
            let lines: Vec<String> = rows.iter().map(|(_, json)| json.to_string()).collect();
            lines.join(
                "
",
            )
        }
    }
}

/// One value in the format asked for; as a table it is `text`.
pub fn one(format: Format, json: &Json, text: impl FnOnce() -> String) -> String {
    match format {
        Format::Table => text(),
        Format::Json => pretty(json),
        Format::Ndjson => json.to_string(),
    }
}

/// The settings in the format asked for.
pub fn settings(format: Format, rows: &[(&'static str, String, &'static str)]) -> String {
    let row = |(key, value, source): &(&'static str, String, &'static str)| {
        let cells = vec![
            (*key).to_owned(),
            cell(&Json::from(value.as_str()), 60),
            (*source).to_owned(),
        ];
        (cells, json!({"key": key, "value": value, "source": source}))
    };
    listing(
        format,
        &["setting", "value", "source"],
        &rows.iter().map(row).collect::<Vec<_>>(),
    )
}

/// A table without lines between rows.
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

    #[test]
    fn what_a_page_is_named_cannot_move_the_cursor() {
        assert_eq!(
            harmless("a\x1b[31mb\r\nc\u{202e}d"),
            "a\\u{1b}[31mb\\u{d}\\u{a}c\\u{202e}d"
        );
        assert_eq!(cell(&json!("abcdef"), 4), "abc…");
        assert_eq!(cell(&Json::Null, 4), "-");
    }
}
