//! Writes lines of CSV (RFC 4180) that a spreadsheet shows as text.
//!
//! Invariant: no cell begins like a formula. A name of a Page comes from outside, and a spreadsheet would
//! execute `=...` when an operator opens the list.

use serde_json::Value as Json;

/// Returns one line with its line break. A cell that a spreadsheet would take for a formula begins with
/// an apostrophe.
pub fn csv_line<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    let guarded = cells.into_iter().map(|cell| {
        if is_formula(cell) {
            format!("'{cell}")
        } else {
            cell.to_owned()
        }
    });
    // Writing to a Vec cannot fail, and a single line cannot have an unequal length.
    let _ = writer.write_record(guarded);
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns a JSON value as a cell: a string as it is, null as nothing, anything else as JSON.
pub fn csv_cell(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns whether a spreadsheet would take a cell for a formula. Telephone numbers and negative numbers
/// are none.
fn is_formula(cell: &str) -> bool {
    let mut characters = cell.chars();
    match characters.next() {
        Some('=' | '@' | '\t' | '\r') => true,
        Some('+' | '-') => !characters
            .all(|c| c.is_ascii_digit() || matches!(c, ' ' | '(' | ')' | '-' | '.' | '/')),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_if_needed_and_never_a_formula() {
        let line = csv_line([
            "a",
            "b,c",
            "d\"e",
            "f\ng",
            "=1+1",
            "@x",
            "+49 (30) 1-2",
            "-1.5",
            "+1+cmd",
            "",
        ]);
        assert_eq!(
            line,
            "a,\"b,c\",\"d\"\"e\",\"f\ng\",'=1+1,'@x,+49 (30) 1-2,-1.5,'+1+cmd,\r\n"
        );
    }
}
