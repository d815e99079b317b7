//! Escapes text for HTML.
//!
//! Invariant: text from requests or from Facebook appears in a page only after [`escape`].

/// Returns `text` with a character reference in place of every character that has a meaning in HTML
/// or in the value of an attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_text_contains_no_markup() {
        assert_eq!(
            escape(r#"<img onerror="x">&'"#),
            "&lt;img onerror=&quot;x&quot;&gt;&amp;&#39;"
        );
    }
}
