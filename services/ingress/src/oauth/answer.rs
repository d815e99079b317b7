//! The answers to the requests of a login: HTML if the client accepts HTML, otherwise JSON.
//!
//! Invariants: text from requests or from Facebook is escaped in HTML, no answer may be cached or
//! framed, and no answer contains a token.

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use common::records::connection::Status;
use common::store::StoreError;
use common::views::page::PageDetail;
use model::id::LoginId;
use serde_json::{Value as Json, json};

use super::context::LoginContext;
use super::probe::{self, ProbeError};
use super::progress::{Connected, PageProgress, Progress, load_connection_pages, load_progress};
use crate::client::Client;
use crate::html::escape;

/// How long the answer for a program waits for the completion of the login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);
/// The maximum number of Pages that the answer for a person shows.
const MAX_SHOWN_PAGES: usize = 200;
/// The time between two reads of the progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

fn accepts_html(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// Headers against caching, framing, scripts, and leaks of the address.
const SECURITY_HEADERS: [(HeaderName, &str); 4] = [
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
fn html_page(status: StatusCode, title: &str, refresh: Option<&str>, body: &str) -> Response {
    let refresh = refresh.map_or_else(String::new, |address| {
        let address = escape(address);
        format!(r#"<meta http-equiv="refresh" content="1;url={address}">"#)
    });
    let text = format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">{refresh}<title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#1c1e21}}table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd}}.bad{{color:#a3182a}}.good{{color:#17663a}}</style></head><body><h1>{title}</h1>{body}</body></html>"#,
    );
    let content_type = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    (status, SECURITY_HEADERS, content_type, text).into_response()
}

fn json_response(status: StatusCode, body: &Json) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, SECURITY_HEADERS, content_type, body.to_string()).into_response()
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
fn html_link(address: &str, text: &str) -> String {
    format!(r#"<p><a href="{}">{text}</a></p>"#, escape(address))
}

/// Returns the answer to a login that is refused or failed: `code` is for programs, `text` for
/// people. `link` is the relative address of a new login; `None` if the person cannot begin one.
pub(super) fn refusal(
    headers: &HeaderMap,
    status: StatusCode,
    code: &str,
    text: &str,
    link: Option<&str>,
) -> Response {
    if accepts_html(headers) {
        let mut body = format!(r#"<p class="bad">{}</p>"#, escape(text));
        if let Some(link) = link {
            body.push_str(&html_link(link, "Begin again"));
        }
        html_page(status, "Not connected", None, &body)
    } else {
        json_response(status, &json!({"error": {"code": code, "message": text}}))
    }
}

/// The text for a client that exceeds a limit of logins.
pub(super) const TOO_MANY: &str =
    "There were too many logins from your network. Please reload the page in a moment.";

/// Returns the answer to a client that exceeds a limit of logins.
pub(super) fn too_many(headers: &HeaderMap, link: &str) -> Response {
    let status = StatusCode::TOO_MANY_REQUESTS;
    refusal(headers, status, "too_many", TOO_MANY, Some(link))
}

/// Returns the progress of a login. A browser gets it at once and reloads it every second; a
/// program gets it when the login is complete or after [`LOGIN_TIMEOUT`].
pub(super) async fn progress_response(
    context: &LoginContext,
    client: Client,
    headers: &HeaderMap,
    id: &LoginId,
    links: &Links,
) -> Response {
    let login_link = login_link(&links.invitation, false);
    let Some(_permit) = context.limits.admit_answer(client) else {
        return too_many(headers, &login_link);
    };
    let unavailable = |error: &StoreError| {
        tracing::error!(error = %error, "the progress of a login cannot be read");
        let text = "This cannot be shown right now. Please reload the page in a minute.";
        refusal(
            headers,
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            text,
            Some(&login_link),
        )
    };
    if accepts_html(headers) {
        return match load_progress(context, id).await {
            Ok(progress) => {
                let page = html_progress(context, &progress, links).await;
                page.unwrap_or_else(|error| unavailable(&error))
            }
            Err(error) => unavailable(&error),
        };
    }
    let (progress, probed) = tokio::join!(wait_for_progress(context, id), probe::run(context));
    match progress {
        Ok(progress) => {
            let answer = json_progress(context, &progress, probed).await;
            answer.unwrap_or_else(|error| unavailable(&error))
        }
        Err(error) => unavailable(&error),
    }
}

/// Waits until a login is complete or has failed, at most for [`LOGIN_TIMEOUT`], and returns its
/// progress.
async fn wait_for_progress(context: &LoginContext, id: &LoginId) -> Result<Progress, StoreError> {
    let deadline = tokio::time::Instant::now() + LOGIN_TIMEOUT;
    let mut interval = tokio::time::interval(CHECK_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            // The process is stopping, so the answer is the present progress.
            () = context.lifecycle.stopping() => return load_progress(context, id).await,
        }
        let progress = load_progress(context, id).await?;
        let is_final = match &progress {
            Progress::Waiting => false,
            Progress::Failed(_) => true,
            Progress::Connected(connected) => connected.is_final,
        };
        if is_final || tokio::time::Instant::now() >= deadline {
            return Ok(progress);
        }
    }
}

/// Returns the answer for a program: the Pages, the results of the webhook test and of the first
/// read of each Page, and the state of the connection.
async fn json_progress(
    context: &LoginContext,
    progress: &Progress,
    probed: Result<(), ProbeError>,
) -> Result<Response, StoreError> {
    let webhook_test = match probed {
        Ok(()) => json!({"status": "success"}),
        Err(error) => json!({"status": "error", "message": error.to_string()}),
    };
    let without_pages = |status: StatusCode, connection: Json| {
        let body = json!({"pages": {"data": [], "paging": {}}, "webhook_test": webhook_test.clone(), "polling_test": [], "connection": connection});
        json_response(status, &body)
    };
    Ok(match progress {
        Progress::Waiting => {
            let text = "no worker has processed this login yet; it continues as soon as a worker is available";
            without_pages(
                StatusCode::OK,
                json!({"status": "pending", "message": text}),
            )
        }
        Progress::Failed(reason) => without_pages(
            StatusCode::BAD_GATEWAY,
            json!({"status": "error", "message": reason}),
        ),
        Progress::Connected(connected) => {
            let pages = polled_pages(context, connected, usize::MAX).await?;
            let fields: Vec<Json> = pages.iter().map(|page| page_fields(&page.view)).collect();
            let poll_result = |page: &PageProgress| {
                let result = match (&connection_problem(connected), page.is_read) {
                    (_, true) => json!({"status": "success"}),
                    (Some(problem), false) => json!({"status": "error", "message": problem}),
                    (None, false) => json!({"status": "pending"}),
                };
                json!({"page_id": page.view.page.id, "result": result})
            };
            let poll_results: Vec<Json> = pages.iter().map(poll_result).collect();
            let body = json!({
                "pages": {"data": fields, "paging": {}},
                "webhook_test": webhook_test,
                "polling_test": poll_results,
                "connection": connection_json(context, connected),
            });
            json_response(StatusCode::OK, &body)
        }
    })
}

/// Returns at most `max` Pages of a connection, or no Page while the first connection poll since
/// the login is not complete.
async fn polled_pages(
    context: &LoginContext,
    connected: &Connected,
    max: usize,
) -> Result<Vec<PageProgress>, StoreError> {
    if connected.is_polled {
        load_connection_pages(context, connected, max).await
    } else {
        Ok(Vec::new())
    }
}

/// Returns the reason why the Pages of a connection cannot be read, or `None` if the connection is
/// active.
fn connection_problem(connected: &Connected) -> Option<String> {
    let connection = &connected.connection;
    let is_unusable = connection.status != Status::Active;
    is_unusable.then(|| {
        connection
            .problem
            .clone()
            .unwrap_or_else(|| connection.status.to_string())
    })
}

/// Returns the id and the values of a Page in the form in which Graph returns them.
fn page_fields(view: &PageDetail) -> Json {
    let mut page = serde_json::Map::new();
    page.insert("id".to_owned(), json!(view.page.id));
    for (name, field) in &view.fields {
        if !field.value.is_null() {
            page.insert(name.clone(), field.value.clone());
        }
    }
    Json::Object(page)
}

/// Returns the member `connection` of the answer for a program.
fn connection_json(context: &LoginContext, connected: &Connected) -> Json {
    let connection = &connected.connection;
    let status = if connected.is_final || connection.last_poll.is_some() {
        connection.status.to_string()
    } else {
        "pending".to_owned()
    };
    let webhooks = connected.webhooks_problem.as_ref().map_or_else(
        || json!({"status": "success"}),
        |problem| json!({"status": "error", "message": problem}),
    );
    json!({
        "id": connection.user,
        "status": status,
        "problem": connection.problem,
        "webhooks": webhooks,
        "missing_permissions": connection.missing_permissions(&context.config.scopes),
    })
}

/// Returns the answer for a person. While the login is not complete, the browser reloads it.
async fn html_progress(
    context: &LoginContext,
    progress: &Progress,
    links: &Links,
) -> Result<Response, StoreError> {
    Ok(match progress {
        Progress::Waiting => html_page(
            StatusCode::OK,
            "Connecting",
            Some(&links.reload),
            "<p>Waiting for Facebook. This page reloads automatically.</p>",
        ),
        Progress::Failed(reason) => {
            let link = html_link(&login_link(&links.invitation, false), "Begin again");
            let body = format!(r#"<p class="bad">{}</p>{link}"#, escape(reason));
            html_page(StatusCode::BAD_GATEWAY, "Not connected", None, &body)
        }
        Progress::Connected(connected) => {
            let pages = polled_pages(context, connected, MAX_SHOWN_PAGES).await?;
            connected_page(context, connected, &pages, links)
        }
    })
}

fn connected_page(
    context: &LoginContext,
    connected: &Connected,
    pages: &[PageProgress],
    links: &Links,
) -> Response {
    let connection = &connected.connection;
    let name = connection.name.as_deref().unwrap_or("a person");
    let mut body = format!("<p>Connected as <b>{}</b>.</p>", escape(name));
    // Writing to a String cannot fail.
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
    let webhooks_problem = connected.webhooks_problem.as_ref();
    if let Some(problem) = webhooks_problem.filter(|_| connected.is_final) {
        let _ = write!(
            body,
            r#"<p class="bad">No webhooks arrive: {}</p>"#,
            escape(problem)
        );
    }
    if connected.is_polled {
        let count = connection.last_poll.as_ref().map_or(0, |poll| poll.pages);
        body.push_str(&pages_table(count, pages));
    } else {
        body.push_str("<p>Reading your Pages. This page reloads automatically.</p>");
    }
    let title = if connected.is_final {
        "Connected"
    } else {
        "Connecting"
    };
    let refresh = (!connected.is_final).then_some(links.reload.as_str());
    html_page(StatusCode::OK, title, refresh, &body)
}

/// Returns a table of `pages`, which are the first of `count` Pages of the connection.
fn pages_table(count: u64, pages: &[PageProgress]) -> String {
    let mut table =
        format!("<p>{count} Pages</p><table><tr><th>Page</th><th>Id</th><th>State</th></tr>");
    for page in pages {
        let name = page.view.fields.get("name");
        let name = name.and_then(|field| field.value.as_str());
        let state = if page.is_read { "read" } else { "waiting" };
        let is_good = page.is_read && page.view.page.status == model::page::Status::Active;
        let class = if is_good { "good" } else { "bad" };
        // Writing to a String cannot fail.
        let _ = write!(
            table,
            r#"<tr><td>{}</td><td>{}</td><td class="{class}">{state}, {}</td></tr>"#,
            escape(name.unwrap_or("")),
            page.view.page.id,
            page.view.page.status
        );
    }
    table.push_str("</table>");
    if pages.len() >= MAX_SHOWN_PAGES {
        table.push_str("<p>All Pages: <code>pagesync page list</code></p>");
    }
    table
}
