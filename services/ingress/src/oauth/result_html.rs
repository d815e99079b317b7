//! The page that a person sees after Facebook's dialog: what was connected, the results of both tests,
//! and what to do next.
//!
//! Invariants: text from Facebook and from settings is escaped, and the page contains no token. While
//! the login is not complete, the browser reloads the page every second.

use std::fmt::Write as _;

use axum::http::StatusCode;
use axum::response::Response;
use common::store::StoreError;
use model::field::FieldName;
use model::id::LoginId;
use model::page::Status;

use super::context::LoginContext;
use super::html_page::{Links, html_link, html_page, login_link};
use super::probe::{self, TestResult};
use super::progress::{Connected, PageProgress, Progress, load_progress, polled_pages};
use crate::html::escape;

/// The maximum number of Pages that the page shows.
const MAX_SHOWN_PAGES: usize = 200;

/// Returns the page of a login.
pub(super) async fn html_progress(
    context: &LoginContext,
    id: &LoginId,
    links: &Links,
) -> Result<Response, StoreError> {
    Ok(match load_progress(context, id).await? {
        Progress::Waiting => html_page(
            StatusCode::OK,
            "Connecting",
            Some(&links.reload),
            "<p>Waiting for Facebook. This page reloads automatically.</p>",
        ),
        Progress::Failed(reason) => {
            let link = html_link(&login_link(&links.invitation, false), "Begin again");
            let body = format!(r#"<p class="bad">{}</p>{link}"#, escape(&reason));
            html_page(StatusCode::BAD_GATEWAY, "Not connected", None, &body)
        }
        Progress::Connected(connected) => {
            let tested = probe::test(context, id).await?;
            let pages = polled_pages(context, &connected, MAX_SHOWN_PAGES).await?;
            connected_page(context, &connected, &pages, &tested, links)
        }
    })
}

fn connected_page(
    context: &LoginContext,
    connected: &Connected,
    pages: &[PageProgress],
    tested: &TestResult,
    links: &Links,
) -> Response {
    let connection = &connected.connection;
    let is_final = connected.is_final && *tested != TestResult::Waiting;
    let name = connection.name.as_deref().unwrap_or("a person");
    let mut body = format!("<p>Connected as <b>{}</b>.</p>", escape(name));
    if let Some(client) = &connection.client {
        // Writing to a String cannot fail.
        let _ = write!(body, "<p>Client: <b>{}</b></p>", escape(client));
    }
    push_problems(context, connected, links, &mut body);
    if connected.is_polled {
        let count = connection.last_poll.as_ref().map_or(0, |poll| poll.pages);
        push_tests(count, pages, tested, connected, &mut body);
        body.push_str(&pages_table(count, pages));
    } else if is_final {
        body.push_str(r#"<p class="bad">Your Pages could not be read.</p>"#);
    } else {
        body.push_str("<p>Reading your Pages. This page reloads automatically.</p>");
    }
    push_deployment(context, &mut body);
    if is_final {
        let is_good = *tested == TestResult::Passed && has_no_problem(context, connected);
        push_next_steps(context, connected, is_good, &mut body);
    }
    let title = if is_final { "Connected" } else { "Connecting" };
    let refresh = (!is_final).then_some(links.reload.as_str());
    html_page(StatusCode::OK, title, refresh, &body)
}

/// Appends the missing permissions with a link that asks for them again, and the other problems.
fn push_problems(context: &LoginContext, connected: &Connected, links: &Links, body: &mut String) {
    let connection = &connected.connection;
    let missing = connection.missing_permissions(&context.config.scopes);
    for missing in &missing {
        let _ = write!(
            body,
            r#"<p class="bad">The permission {} is missing: {}.</p>"#,
            escape(&missing.permission),
            missing.consequence
        );
    }
    if !missing.is_empty() {
        let link = login_link(&links.invitation, true);
        body.push_str(&html_link(&link, "Let Facebook ask for it again"));
    }
    if let Some(problem) = &connection.problem {
        let _ = write!(body, r#"<p class="bad">{}</p>"#, escape(problem));
    }
    if let Some((id, problem)) = &connected.subscription_problem {
        let _ = write!(
            body,
            r#"<p class="bad">Facebook does not announce all changes of Page {id}: {}</p>"#,
            escape(problem)
        );
    }
    let webhooks_problem = connected.webhooks_problem.as_ref();
    if let Some(problem) = webhooks_problem.filter(|_| connected.is_final) {
        let _ = write!(
            body,
            r#"<p class="bad">No webhooks arrive: {}</p>"#,
            escape(problem)
        );
    }
}

/// Appends the results of the webhook test and of the first reads, in words.
fn push_tests(
    count: u64,
    pages: &[PageProgress],
    tested: &TestResult,
    connected: &Connected,
    body: &mut String,
) {
    let webhooks = match tested {
        TestResult::Waiting => ("wait", "A test webhook is under way.".to_owned()),
        TestResult::Passed => (
            "good",
            "A test webhook was received, queued and stored.".to_owned(),
        ),
        TestResult::Failed(problem) => (
            "bad",
            format!("The test webhook was not stored: {}.", escape(problem)),
        ),
    };
    let unread = pages.iter().filter(|page| !page.is_read).count() as u64;
    let reads = match (count, unread) {
        (0, _) => ("bad", "There is no Page to read.".to_owned()),
        (_, 0) => ("good", format!("{} read from Facebook.", were(count))),
        (_, unread) if connected.is_final => (
            "bad",
            format!("{unread} of {count} Pages could not be read from Facebook."),
        ),
        (_, unread) => (
            "wait",
            format!("{unread} of {count} Pages are not read yet."),
        ),
    };
    body.push_str("<h2>Tests</h2><ul>");
    for (class, text) in [webhooks, reads] {
        let _ = write!(body, r#"<li class="{class}">{text}</li>"#);
    }
    body.push_str("</ul>");
}

/// Returns "1 Page was" or "3 Pages were".
fn were(count: u64) -> String {
    match count {
        1 => "1 Page was".to_owned(),
        count => format!("{count} Pages were"),
    }
}

/// Appends the name and the contact of the deployment, and what it reads.
fn push_deployment(context: &LoginContext, body: &mut String) {
    let config = &context.config;
    let name = config.deployment_name.as_deref();
    let fields: Vec<&str> = config
        .tracked_fields
        .iter()
        .map(FieldName::as_str)
        .collect();
    let _ = write!(
        body,
        "<h2>What is read</h2><p>{} reads these fields of the Pages above, and no messages, posts or statistics: {}.</p>",
        escape(name.unwrap_or("This site")),
        escape(&fields.join(", "))
    );
    if let Some(contact) = &config.contact {
        let _ = write!(body, "<p>Questions: {}</p>", escape(contact));
    }
}

/// Returns whether everything about a login that is complete works.
fn has_no_problem(context: &LoginContext, connected: &Connected) -> bool {
    let connection = &connected.connection;
    let has_pages = connection
        .last_poll
        .as_ref()
        .is_some_and(|poll| poll.pages > 0);
    let missing = connection.missing_permissions(&context.config.scopes);
    connected.is_polled
        && has_pages
        && missing.is_empty()
        && connection.problem.is_none()
        && connected.webhooks_problem.is_none()
        && connected.subscription_problem.is_none()
}

/// Appends what happens next and where the person can go.
fn push_next_steps(
    context: &LoginContext,
    connected: &Connected,
    is_good: bool,
    body: &mut String,
) {
    let next = if is_good {
        "Changes of these Pages are followed from now on. You have nothing else to do, and you may close this window."
    } else {
        "Something above needs attention. Please do what is written there, or show this page to the operator of this site. You may close this window."
    };
    let _ = write!(
        body,
        "<h2>What happens next</h2><p>{next} You can end this at any time in the settings of your Facebook account, under Apps and Websites.</p>"
    );
    if let Some(contact) = context.config.contact.as_ref().filter(|_| !is_good) {
        let _ = write!(body, "<p>The operator: {}</p>", escape(contact));
    }
    if let Some(address) = &connected.return_to {
        body.push_str(&html_link(address, "Return to the site that sent you here"));
    }
}

/// Returns a table of `pages`, which are the first of `count` Pages of the connection.
fn pages_table(count: u64, pages: &[PageProgress]) -> String {
    let mut table = "<table><tr><th>Page</th><th>Id</th><th>State</th></tr>".to_owned();
    for page in pages {
        let name = page.view.fields.get("name");
        let name = name.and_then(|field| field.value.as_str());
        let state = if page.is_read { "read" } else { "waiting" };
        let is_good = page.is_read && page.view.page.status == Status::Active;
        let class = if is_good { "good" } else { "bad" };
        let at_facebook = page.view.page.facebook_state;
        let at_facebook =
            at_facebook.map_or_else(String::new, |state| format!(", {state} at Facebook"));
        let failure = page.view.page.last_failure.as_ref();
        let failure = failure.map_or_else(String::new, |failure| format!(": {}", failure.reason));
        let _ = write!(
            table,
            r#"<tr><td>{}</td><td>{}</td><td class="{class}">{state}, {}{at_facebook}{}</td></tr>"#,
            escape(name.unwrap_or("")),
            page.view.page.id,
            page.view.page.status,
            escape(&failure)
        );
    }
    table.push_str("</table>");
    if pages.len() >= MAX_SHOWN_PAGES && count > pages.len() as u64 {
        let _ = write!(
            table,
            "<p>These are the first {} of {count} Pages.</p>",
            pages.len()
        );
    }
    table
}
