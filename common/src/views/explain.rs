//! Explains a Page in sentences.
//!
//! Invariant: control characters in values are escaped, so that a text can be shown on a terminal.

use std::fmt::Write as _;

use model::failure::Failure;
use model::id::{PageId, UserId};
use model::page::Page;
use model::polling::Polling;

use crate::escape::escape_control;
use crate::timestamp::rfc3339;
use crate::views::failure::failure_text;
use crate::views::page::facebook_state;

/// Returns a line with the status of a Page, and its state at Facebook if it is known.
pub fn status_line(id: &PageId, version: u64, page: &Page) -> String {
    let state = facebook_state(page);
    let state = state.map_or_else(String::new, |state| format!(", {state} at Facebook"));
    format!("Page {id}: {}{state}, version {version}\n", page.status)
}

/// Returns a sentence about the last failed attempt.
pub fn last_failure_text(failure: &Failure) -> String {
    let text = escape_control(&failure_text(failure));
    format!("The attempt at {} failed: {text}.", rfc3339(failure.at))
}

/// Explains in sentences where each value comes from and when the Page is read next.
/// With `shows_people`, names the people whose connections give access to it.
pub fn explain(id: &PageId, version: u64, page: &Page, shows_people: bool) -> String {
    let mut text = status_line(id, version, page);
    // Writing to a String cannot fail.
    if let Some(failure) = &page.last_failure {
        let _ = writeln!(text, "{}", last_failure_text(failure));
    }
    for (name, register) in &page.registers {
        let value = register.value.as_ref().map_or_else(
            || "no value".to_owned(),
            |value| escape_control(value.as_json_text()),
        );
        let (first_at, last_at) = (rfc3339(register.origin.stamp), rfc3339(register.stamp));
        let first = format!("first seen by {} at {first_at}", register.origin.source);
        let last = if first_at == last_at {
            String::new()
        } else {
            format!(", last by {} at {last_at}", register.source)
        };
        let confirmed = page.confirmed_at(name).map_or_else(
            || "no read has confirmed it yet".to_owned(),
            |at| format!("confirmed by a read at {}", rfc3339(at)),
        );
        let _ = writeln!(
            text,
            "  {name} = {value}\n      {first}{last}; {confirmed}."
        );
    }
    if shows_people {
        explain_people(page, &mut text);
    }
    for field in &page.missing_fields {
        let _ = writeln!(
            text,
            "The last read did not return {field}; the value is kept until a second read confirms that it was removed."
        );
    }
    explain_polling(&page.polling, &mut text);
    text
}

fn explain_people(page: &Page, text: &mut String) {
    let people: Vec<&str> = page.connections.iter().map(UserId::as_str).collect();
    let _ = match people.as_slice() {
        [] => writeln!(
            text,
            "No connection gives access to it: `pagesync connection invite` prints the address to connect it."
        ),
        [person] => writeln!(text, "The connection of {person} gives access to it."),
        people => writeln!(
            text,
            "The connections of {} give access to it.",
            people.join(", ")
        ),
    };
}

fn explain_polling(polling: &Polling, text: &mut String) {
    if let Some(read_after) = polling.read_needed_after() {
        let _ = writeln!(
            text,
            "A webhook requires a read later than {} (Facebook's clock).",
            rfc3339(read_after)
        );
    }
    if let Some(requested_from) = polling.open_request_from() {
        let _ = writeln!(
            text,
            "A read that begins at or after {} was requested.",
            rfc3339(requested_from)
        );
    }
    let _ = match polling.due() {
        Some((queue, at)) => writeln!(
            text,
            "The Page is read next from {} on, through the queue {queue}.",
            rfc3339(at)
        ),
        None => writeln!(text, "No read is due."),
    };
}
