//! The answers to the requests of a login: HTML if the client accepts HTML, otherwise JSON.
//!
//! Invariants: text from requests or from Facebook is escaped in HTML, no answer may be cached or
//! framed, and no answer contains a token.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use common::records::connection::Status;
use common::store::StoreError;
use common::views::page::PageDetail;
use model::id::LoginId;
use serde_json::{Value as Json, json};

use super::context::LoginContext;
use super::html_page::{Links, SECURITY_HEADERS, html_link, html_page, login_link};
use super::probe::{self, TestResult};
use super::progress::{Connected, PageProgress, Progress, load_progress, polled_pages};
use super::result_html::html_progress;
use crate::client::Client;
use crate::html::escape;

/// How long the answer for a program waits for the completion of the login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);
/// The time between two reads of the progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

fn accepts_html(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

fn json_response(status: StatusCode, body: &Json) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, SECURITY_HEADERS, content_type, body.to_string()).into_response()
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
        let page = html_progress(context, id, links).await;
        return page.unwrap_or_else(|error| unavailable(&error));
    }
    match tokio::join!(wait_for_progress(context, id), probe::run(context, id)) {
        (Ok(progress), Ok(tested)) => {
            let answer = json_progress(context, &progress, &tested).await;
            answer.unwrap_or_else(|error| unavailable(&error))
        }
        (Err(error), _) | (_, Err(error)) => unavailable(&error),
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
    tested: &TestResult,
) -> Result<Response, StoreError> {
    let webhook_test = match tested {
        TestResult::Passed => json!({"status": "success"}),
        TestResult::Waiting => json!({"status": "pending"}),
        TestResult::Failed(problem) => json!({"status": "error", "message": problem}),
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
