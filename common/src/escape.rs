//! Escapes text that came from outside for a terminal.
//!
//! Invariant: the result contains no character that controls a terminal or the direction of text.

/// Returns `text` with its control and direction characters as escapes, so that it cannot control a
/// terminal.
pub fn escape_control(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control()
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
        {
            escaped.extend(c.escape_unicode());
        } else {
            escaped.push(c);
        }
    }
    escaped
}
