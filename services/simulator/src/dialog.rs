//! The dialog: a person allows the app to see their Pages, or does not. A plain form that posts
//! `decision=approve|deny` and `pages=<id>` for each ticked Page back to the same address.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use serde_json::Value;

use crate::Simulator;
use crate::facebook::Code;

type Pairs = Vec<(String, String)>;

fn one<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    let found = pairs.iter().find(|(key, _)| key == name);
    found.map_or("", |(_, value)| value.as_str())
}

fn all<'a>(pairs: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    pairs
        .iter()
        .filter(move |(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// What is wrong with the request, as Facebook shows it: the app learns nothing.
fn blocked(simulator: &Simulator, query: &[(String, String)]) -> Option<Response> {
    let facebook = simulator.facebook();
    let redirect = one(query, "redirect_uri");
    let text = if one(query, "client_id") != facebook.app.id {
        "Invalid App ID: The provided app ID does not look like a valid app ID."
    } else if !facebook
        .app
        .redirect_uris
        .iter()
        .any(|allowed| allowed == redirect)
    {
        "URL Blocked: This redirect failed because the redirect URI is not white-listed in the app's client OAuth settings."
    } else if one(query, "state").is_empty() {
        "Something went wrong: the state parameter is missing."
    } else {
        return None;
    };
    let page = format!("<!doctype html><title>Error</title><h1>Error</h1><p>{text}</p>");
    Some((StatusCode::BAD_REQUEST, Html(page)).into_response())
}

/// Shows the form.
pub(crate) async fn show(
    State(simulator): State<Simulator>,
    Path(_version): Path<String>,
    Query(query): Query<Pairs>,
) -> Response {
    if let Some(error) = blocked(&simulator, &query) {
        return error;
    }
    let facebook = simulator.facebook();
    let mut people = String::new();
    for person in facebook.people.values() {
        let _ = write!(
            people,
            r#"<option value="{}">{}</option>"#,
            person.id,
            escape(&person.name)
        );
    }
    let mut pages = String::new();
    for page in simulator.world().pages().iter().take(500) {
        let text = |name: &str| page.get(name).and_then(Value::as_str).unwrap_or_default();
        let _ = write!(
            pages,
            r#"<p><label><input type="checkbox" name="pages" value="{}" checked> {}</label></p>"#,
            escape(text("id")),
            escape(text("name"))
        );
    }
    let mut scopes = String::new();
    for scope in one(&query, "scope")
        .split([',', ' '])
        .filter(|scope| !scope.is_empty())
    {
        let scope = escape(scope);
        let _ = write!(
            scopes,
            r#"<p><label><input type="checkbox" name="scopes" value="{scope}" checked> {scope}</label></p>"#
        );
    }
    let form = format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Simulated Facebook</title></head><body style="font:16px system-ui;max-width:40rem;margin:3rem auto"><h1>Simulated Facebook</h1><form method="post"><input type="hidden" name="ticked" value="yes"><p>Log in as <select name="user">{people}</select></p><h2>Pages the app may see</h2>{pages}<h2>What it may do</h2>{scopes}<p><button name="decision" value="approve" id="approve">Allow</button> <button name="decision" value="deny" id="deny">Not now</button></p></form></body></html>"#
    );
    Html(form).into_response()
}

/// Takes the decision and sends the person back.
pub(crate) async fn decide(
    State(simulator): State<Simulator>,
    Path(_version): Path<String>,
    Query(query): Query<Pairs>,
    Form(form): Form<Pairs>,
) -> Response {
    if let Some(error) = blocked(&simulator, &query) {
        return error;
    }
    let redirect = one(&query, "redirect_uri");
    let mut back: Pairs = Vec::new();
    if one(&form, "decision") == "approve" {
        back.push(("code".to_owned(), approve(&simulator, &query, &form)));
    } else {
        let denial = [
            ("error", "access_denied"),
            ("error_code", "200"),
            ("error_description", "Permissions error"),
            ("error_reason", "user_denied"),
        ];
        back.extend(denial.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    back.push(("state".to_owned(), one(&query, "state").to_owned()));
    let separator = if redirect.contains('?') { '&' } else { '?' };
    let back = serde_urlencoded::to_string(&back).unwrap_or_default();
    let address = format!("{redirect}{separator}{back}#_=_");
    (StatusCode::FOUND, [(header::LOCATION, address)]).into_response()
}

/// Remembers what the person allowed; answers with a code.
fn approve(simulator: &Simulator, query: &[(String, String)], form: &[(String, String)]) -> String {
    let mut facebook = simulator.facebook();
    let first = facebook.people.keys().next().cloned().unwrap_or_default();
    let user = Some(one(form, "user")).filter(|user| facebook.people.contains_key(*user));
    let user = user.map_or(first, ToOwned::to_owned);
    // A person's form names what is ticked; a program may leave that out and means everything.
    let is_form = !one(form, "ticked").is_empty();
    let pages: BTreeSet<String> = all(form, "pages").map(ToOwned::to_owned).collect();
    let scopes: BTreeSet<&str> = all(form, "scopes").collect();
    let declined: BTreeSet<&str> = all(form, "declined").collect();
    if let Some(person) = facebook.people.get_mut(&user) {
        person.ticked = (is_form || !pages.is_empty()).then_some(pages);
        for scope in one(query, "scope")
            .split([',', ' '])
            .filter(|scope| !scope.is_empty())
        {
            let granted = (!is_form || scopes.contains(scope)) && !declined.contains(scope);
            person.permissions.insert(scope.to_owned(), granted);
        }
    }
    let code = facebook.text("AQ", 120);
    let issued = facebook.now();
    facebook.codes.insert(
        code.clone(),
        Code {
            user,
            redirect_uri: one(query, "redirect_uri").to_owned(),
            issued,
            used: false,
        },
    );
    code
}
