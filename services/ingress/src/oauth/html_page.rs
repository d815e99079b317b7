//! The frame of the HTML answers of a login, and the links in them.
//!
//! Invariants: text from requests or from Facebook is escaped, and no answer may be cached or framed.

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::html::escape;

/// Headers against caching, framing, scripts, and leaks of the address.
pub(super) const SECURITY_HEADERS: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
];

/// Returns an HTML page. With `refresh`, the browser requests that address after a second. This
/// address and the links are relative, so that they are right behind a proxy that adds a path.
///
/// The address is explicit because Facebook appends a fragment to the callback, and a browser that
/// reloads an address with a fragment only scrolls.
pub(super) fn html_page(
    status: StatusCode,
    title: &str,
    refresh: Option<&str>,
    body: &str,
) -> Response {
    let refresh = refresh.map_or_else(String::new, |address| {
        let address = escape(address);
        format!(r#"<meta http-equiv="refresh" content="1;url={address}">"#)
    });
    let text = format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">{refresh}<title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#1c1e21}}table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;overflow-wrap:anywhere}}.bad{{color:#a3182a}}.good{{color:#17663a}}</style></head><body><h1>{title}</h1>{body}</body></html>"#,
    );
    let content_type = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    (status, SECURITY_HEADERS, content_type, text).into_response()
}

/// The relative addresses in the answer for a person.
#[derive(Debug)]
pub(super) struct Links {
    /// The address that shows the present progress.
    pub(super) reload: String,
    /// The invitation with which the login began; empty if it needed none.
    pub(super) invitation: String,
}

/// Returns the relative address at which a new login begins. `invitation` is empty if none is needed.
/// With `asks_again`, Facebook asks again for permissions that the person declined before.
pub(super) fn login_link(invitation: &str, asks_again: bool) -> String {
    let invitation = (!invitation.is_empty()).then_some(("invitation", invitation));
    let rerequest = asks_again.then_some(("rerequest", "true"));
    let query: Vec<(&str, &str)> = invitation.into_iter().chain(rerequest).collect();
    match serde_urlencoded::to_string(query) {
        Ok(query) if !query.is_empty() => format!("login?{query}"),
        _ => "login".to_owned(),
    }
}

/// Returns a link to a new login as HTML.
pub(super) fn html_link(address: &str, text: &str) -> String {
    format!(r#"<p><a href="{}">{text}</a></p>"#, escape(address))
}
