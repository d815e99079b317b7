//! The login dialog, in which a person grants the app access to their Pages or denies it.
//!
//! It is a plain form. It posts `decision=approve` or `decision=deny`, the person, and each
//! selected Page and permission to its own address.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use serde_json::Value;

use crate::pages::Page;
use crate::people::LoginConfiguration;
use crate::simulator::Simulator;
use crate::token::LoginCode;

/// The names and values of a query or a form. A name can occur several times.
type Pairs = Vec<(String, String)>;

/// The maximum number of Pages that the form shows.
const MAX_SHOWN_PAGES: usize = 500;

/// Returns the first value of a name, or an empty string if there is none.
fn first_value<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    let found = pairs.iter().find(|(key, _)| key == name);
    found.map_or("", |(_, value)| value.as_str())
}

/// Returns every value of a name.
fn values<'a>(pairs: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    pairs
        .iter()
        .filter(move |(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

/// Returns the configuration of Facebook Login for Business that a request names.
fn configuration(simulator: &Simulator, query: &[(String, String)]) -> Option<LoginConfiguration> {
    let configurations = &simulator.facebook().login_configurations;
    configurations.get(first_value(query, "config_id")).cloned()
}

/// Returns the permissions that the app requests, in a configuration or as scopes.
fn requested_scopes(simulator: &Simulator, query: &[(String, String)]) -> Vec<String> {
    match configuration(simulator, query) {
        Some(configuration) => configuration.permissions,
        None => first_value(query, "scope")
            .split([',', ' '])
            .filter(|scope| !scope.is_empty())
            .map(ToOwned::to_owned)
            .collect(),
    }
}

/// Escapes a text for HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Returns the error page for an invalid request, or `None` if the request is valid.
///
/// Facebook shows these errors to the person and does not report them to the app.
fn error_page(simulator: &Simulator, query: &[(String, String)]) -> Option<Response> {
    let facebook = simulator.facebook();
    let app = &facebook.app;
    let redirect = first_value(query, "redirect_uri");
    let text = if first_value(query, "client_id") != app.id {
        "Invalid App ID: The provided app ID does not look like a valid app ID."
    } else if !app.redirect_uris.iter().any(|allowed| allowed == redirect) {
        "URL Blocked: This redirect failed because the redirect URI is not white-listed in the app's client OAuth settings."
    } else if !facebook.login_configurations.is_empty()
        && !facebook
            .login_configurations
            .contains_key(first_value(query, "config_id"))
    {
        "It looks like this app isn't available: this app needs at least one supported permission."
    } else if first_value(query, "state").is_empty() {
        "Something went wrong: the state parameter is missing."
    } else {
        return None;
    };
    let page = format!("<!doctype html><title>Error</title><h1>Error</h1><p>{text}</p>");
    Some((StatusCode::BAD_REQUEST, Html(page)).into_response())
}

/// Returns the form, or the error page for an invalid request.
pub(crate) async fn show(
    State(simulator): State<Simulator>,
    Path(_version): Path<String>,
    Query(query): Query<Pairs>,
) -> Response {
    if let Some(error) = error_page(&simulator, &query) {
        return error;
    }
    let people = person_options(&simulator);
    let pages = page_checkboxes(&simulator.pages());
    let scopes = scope_checkboxes(&requested_scopes(&simulator, &query));
    let form = format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Simulated Facebook</title></head><body style="font:16px system-ui;max-width:40rem;margin:3rem auto"><h1>Simulated Facebook</h1><form method="post"><input type="hidden" name="has_checkboxes" value="yes"><p>Log in as <select name="user">{people}</select></p><h2>Pages the app may see</h2>{pages}<h2>What it may do</h2>{scopes}<p><button name="decision" value="approve" id="approve">Allow</button> <button name="decision" value="deny" id="deny">Not now</button></p></form></body></html>"#
    );
    Html(form).into_response()
}

fn person_options(simulator: &Simulator) -> String {
    let mut options = String::new();
    for person in simulator.facebook().people.values() {
        let (id, name) = (&person.id, escape(&person.name));
        // Writing to a String cannot fail.
        let _ = write!(options, r#"<option value="{id}">{name}</option>"#);
    }
    options
}

fn page_checkboxes(pages: &[Page]) -> String {
    let mut checkboxes = String::new();
    for page in pages.iter().take(MAX_SHOWN_PAGES) {
        let text = |field: &str| page.get(field).and_then(Value::as_str).unwrap_or_default();
        let (id, name) = (escape(text("id")), escape(text("name")));
        // Writing to a String cannot fail.
        let _ = write!(
            checkboxes,
            r#"<p><label><input type="checkbox" name="pages" value="{id}" checked> {name}</label></p>"#
        );
    }
    checkboxes
}

fn scope_checkboxes(scopes: &[String]) -> String {
    let mut checkboxes = String::new();
    for scope in scopes {
        let scope = escape(scope);
        // Writing to a String cannot fail.
        let _ = write!(
            checkboxes,
            r#"<p><label><input type="checkbox" name="scopes" value="{scope}" checked> {scope}</label></p>"#
        );
    }
    checkboxes
}

/// Records the decision and redirects the person to the app.
pub(crate) async fn decide(
    State(simulator): State<Simulator>,
    Path(_version): Path<String>,
    Query(query): Query<Pairs>,
    Form(form): Form<Pairs>,
) -> Response {
    if let Some(error) = error_page(&simulator, &query) {
        return error;
    }
    let redirect = first_value(&query, "redirect_uri");
    let mut result: Pairs = Vec::new();
    if first_value(&form, "decision") == "approve" {
        result.push(("code".to_owned(), approve(&simulator, &query, &form)));
    } else {
        let denial = [
            ("error", "access_denied"),
            ("error_code", "200"),
            ("error_description", "Permissions error"),
            ("error_reason", "user_denied"),
        ];
        result.extend(denial.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    result.push(("state".to_owned(), first_value(&query, "state").to_owned()));
    let separator = if redirect.contains('?') { '&' } else { '?' };
    let result = serde_urlencoded::to_string(&result).unwrap_or_default();
    let address = format!("{redirect}{separator}{result}#_=_");
    (StatusCode::FOUND, [(header::LOCATION, address)]).into_response()
}

/// Records the decision of the person and returns a code.
fn approve(simulator: &Simulator, query: &[(String, String)], form: &[(String, String)]) -> String {
    let requested = requested_scopes(simulator, query);
    let configuration = configuration(simulator, query);
    let mut facebook = simulator.facebook();
    let first = facebook.people.keys().next().cloned().unwrap_or_default();
    let user = Some(first_value(form, "user")).filter(|user| facebook.people.contains_key(*user));
    let user = user.map_or(first, ToOwned::to_owned);
    let system_user = configuration
        .as_ref()
        .and_then(|configuration| configuration.system_user.clone());
    let is_system_user = system_user.is_some();
    let user = system_user.unwrap_or(user);
    // A browser posts the checkboxes that are checked. A program can leave out Pages and
    // permissions, which then allows all of them.
    let has_checkboxes = !first_value(form, "has_checkboxes").is_empty();
    let pages: BTreeSet<String> = values(form, "pages").map(ToOwned::to_owned).collect();
    let scopes: BTreeSet<&str> = values(form, "scopes").collect();
    let declined: BTreeSet<&str> = values(form, "declined").collect();
    if let Some(person) = facebook.people.get_mut(&user) {
        person.selected_pages = (has_checkboxes || !pages.is_empty()).then_some(pages);
        let asks_again = first_value(query, "auth_type") == "rerequest";
        for scope in requested {
            if configuration.is_some() {
                // With a configuration, a person grants everything or nothing.
                person.permissions.insert(scope, true);
                continue;
            }
            // The dialog does not ask again for what the person declined before.
            if person.permissions.get(&scope) == Some(&false) && !asks_again {
                continue;
            }
            let is_granted = (!has_checkboxes || scopes.contains(scope.as_str()))
                && !declined.contains(scope.as_str());
            person.permissions.insert(scope, is_granted);
        }
    }
    let text = facebook.random_text("AQ", 120);
    let code = LoginCode {
        user,
        redirect_uri: first_value(query, "redirect_uri").to_owned(),
        issued_at: facebook.now(),
        used: false,
        is_system_user,
    };
    facebook.codes.insert(text.clone(), code);
    text
}
