//! What a person or a program gets: JSON, or HTML where the browser asks for it. Everything that came
//! from outside is escaped; no answer may be stored or framed.

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use common::records::connection::Status;
use common::store::StoreError;
use model::id::GrantId;
use serde_json::{Value as Json, json};

use super::context::OAuth;
use super::probe;
use super::progress::{Connected, Progress, Row, look, rows};

/// How long a program waits for the login to be complete.
const PATIENCE: Duration = Duration::from_secs(15);
/// Pages shown to a person.
const SHOWN: usize = 200;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

const CLOSED: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
];

/// With a refresh the browser asks for that address a second later. It must be named: Facebook sends
/// people back with a fragment, and to reload an address with a fragment is to scroll.
fn html(status: StatusCode, title: &str, refresh: Option<&str>, body: &str) -> Response {
    let refresh = refresh.map_or_else(String::new, |address| {
        let address = escape(address);
        format!(r#"<meta http-equiv="refresh" content="1;url={address}">"#)
    });
    let text = format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">{refresh}<title>{title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#1c1e21}}table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd}}.bad{{color:#a3182a}}.good{{color:#17663a}}</style></head><body><h1>{title}</h1>{body}</body></html>"#,
    );
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    (status, CLOSED, kind, text).into_response()
}

fn as_json(status: StatusCode, body: &Json) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, CLOSED, kind, body.to_string()).into_response()
}

/// Text made harmless for HTML.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// A login that did not work.
pub(super) fn refusal(headers: &HeaderMap, status: StatusCode, word: &str, text: &str) -> Response {
    if wants_html(headers) {
        let mut body = format!(r#"<p class="bad">{}</p>"#, escape(text));
        if word != "not_invited" {
            body.push_str(r#"<p><a href="/facebook/login">Begin again</a></p>"#);
        }
        html(status, "Not connected", None, &body)
    } else {
        as_json(status, &json!({"error": {"code": word, "message": text}}))
    }
}

/// How far the login is: a program waits for the end, a browser looks every second.
pub(super) async fn progress(
    oauth: &OAuth,
    headers: &HeaderMap,
    id: &GrantId,
    state: &str,
) -> Response {
    let Ok(_place) = oauth.crowd.followers.try_acquire() else {
        let text = "Too many people are logging in right now. Please reload the page in a moment.";
        return refusal(headers, StatusCode::SERVICE_UNAVAILABLE, "too_many", text);
    };
    let unavailable = |error: &dyn std::fmt::Display| {
        tracing::error!(error = %error, "the progress of a login cannot be read");
        let text = "This cannot be shown right now. Please reload the page in a minute.";
        refusal(
            headers,
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            text,
        )
    };
    if wants_html(headers) {
        return match look(oauth, id).await {
            Ok(progress) => {
                let again = format!("/facebook/callback?state={state}");
                let shown = page(oauth, &progress, &again).await;
                shown.unwrap_or_else(|error| unavailable(&error))
            }
            Err(error) => unavailable(&error),
        };
    }
    let (progress, probed) = tokio::join!(wait(oauth, id), probe::test(oauth));
    match progress {
        Ok(progress) => {
            let answer = program(oauth, &progress, probed).await;
            answer.unwrap_or_else(|error| unavailable(&error))
        }
        Err(error) => unavailable(&error),
    }
}

async fn wait(oauth: &OAuth, id: &GrantId) -> Result<Progress, StoreError> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            // The process ends: what is known now is the answer.
            () = oauth.lifecycle.stopping() => return look(oauth, id).await,
        }
        let progress = look(oauth, id).await?;
        let ended = match &progress {
            Progress::Waiting => false,
            Progress::Failed(_) => true,
            Progress::Connected(connected) => connected.complete,
        };
        if ended || tokio::time::Instant::now() >= until {
            return Ok(progress);
        }
    }
}

/// The answer of the seed, and what else there is to know under `connection`.
async fn program(
    oauth: &OAuth,
    progress: &Progress,
    probed: Result<(), String>,
) -> Result<Response, StoreError> {
    let test = match probed {
        Ok(()) => json!({"status": "success"}),
        Err(message) => json!({"status": "error", "message": message}),
    };
    let empty = |status: StatusCode, connection: Json| {
        let body = json!({"pages": {"data": [], "paging": {}}, "webhook_test": test.clone(), "polling_test": [], "connection": connection});
        as_json(status, &body)
    };
    Ok(match progress {
        Progress::Waiting => {
            let text = "no worker has taken this login yet; it goes on as soon as one does";
            empty(
                StatusCode::OK,
                json!({"status": "pending", "message": text}),
            )
        }
        Progress::Failed(why) => empty(
            StatusCode::BAD_GATEWAY,
            json!({"status": "error", "message": why}),
        ),
        Progress::Connected(connected) => {
            let rows = rows_of(oauth, connected, usize::MAX).await?;
            let pages: Vec<Json> = rows.iter().map(|row| plain(&row.view)).collect();
            let result = |row: &Row| {
                let result = match (&connection_problem(connected), row.read) {
                    (_, true) => json!({"status": "success"}),
                    (Some(problem), false) => json!({"status": "error", "message": problem}),
                    (None, false) => json!({"status": "pending"}),
                };
                json!({"page_id": row.view.summary.id, "result": result})
            };
            let polled: Vec<Json> = rows.iter().map(result).collect();
            let body = json!({
                "pages": {"data": pages, "paging": {}},
                "webhook_test": test,
                "polling_test": polled,
                "connection": about(oauth, connected),
            });
            as_json(StatusCode::OK, &body)
        }
    })
}

/// Its Pages, once they are all there.
async fn rows_of(
    oauth: &OAuth,
    connected: &Connected,
    most: usize,
) -> Result<Vec<Row>, StoreError> {
    if connected.walked {
        rows(oauth, connected, most).await
    } else {
        Ok(Vec::new())
    }
}

/// Why the Pages of a connection cannot be read, if they cannot.
fn connection_problem(connected: &Connected) -> Option<String> {
    let connection = &connected.connection;
    let is_off = connection.status != Status::Active;
    is_off.then(|| {
        connection
            .problem
            .clone()
            .unwrap_or_else(|| connection.status.to_string())
    })
}

fn plain(view: &common::views::page::PageView) -> Json {
    let mut page = serde_json::Map::new();
    page.insert("id".to_owned(), json!(view.summary.id));
    for (name, field) in &view.fields {
        if !field.value.is_null() {
            page.insert(name.clone(), field.value.clone());
        }
    }
    Json::Object(page)
}

fn about(oauth: &OAuth, connected: &Connected) -> Json {
    let connection = &connected.connection;
    let status = if connected.complete || connection.last_poll.is_some() {
        connection.status.to_string()
    } else {
        "pending".to_owned()
    };
    json!({
        "id": connection.user,
        "status": status,
        "problem": connection.problem,
        "webhooks": connected.webhooks.clone().map_or(json!({"status": "success"}), |problem| json!({"status": "error", "message": problem})),
        "missing_permissions": connection.missing_permissions(&oauth.config.scopes),
    })
}

async fn page(oauth: &OAuth, progress: &Progress, again: &str) -> Result<Response, StoreError> {
    Ok(match progress {
        Progress::Waiting => html(
            StatusCode::OK,
            "Connecting",
            Some(again),
            "<p>Facebook is being asked. This page goes on by itself.</p>",
        ),
        Progress::Failed(why) => {
            let body = format!(
                r#"<p class="bad">{}</p><p><a href="/facebook/login">Begin again</a></p>"#,
                escape(why)
            );
            html(StatusCode::BAD_GATEWAY, "Not connected", None, &body)
        }
        Progress::Connected(connected) => {
            let rows = rows_of(oauth, connected, SHOWN).await?;
            connected_page(oauth, connected, &rows, again)
        }
    })
}

fn connected_page(oauth: &OAuth, connected: &Connected, rows: &[Row], again: &str) -> Response {
    let connection = &connected.connection;
    let name = connection.name.as_deref().unwrap_or("a person");
    let mut body = format!("<p>Connected as <b>{}</b>.</p>", escape(name));
    for lacking in connection.missing_permissions(&oauth.config.scopes) {
        let _ = write!(
            body,
            r#"<p class="bad">The permission {} was not given: {}.</p>"#,
            escape(&lacking.permission),
            lacking.consequence
        );
    }
    if let Some(problem) = &connection.problem {
        let _ = write!(body, r#"<p class="bad">{}</p>"#, escape(problem));
    }
    if let Some(problem) = connected.webhooks.as_ref().filter(|_| connected.complete) {
        let _ = write!(
            body,
            r#"<p class="bad">No webhooks: {}</p>"#,
            escape(problem)
        );
    }
    if connected.walked {
        let _ = write!(
            body,
            "<p>{} Pages</p><table><tr><th>Page</th><th>Id</th><th>State</th></tr>",
            connection.last_poll.as_ref().map_or(0, |last| last.pages)
        );
        for row in rows {
            let name = row
                .view
                .fields
                .get("name")
                .and_then(|field| field.value.as_str());
            let state = if row.read { "read" } else { "waiting" };
            let fine = row.read && row.view.summary.status == model::page::Status::Active;
            let class = if fine { "good" } else { "bad" };
            let _ = write!(
                body,
                r#"<tr><td>{}</td><td>{}</td><td class="{class}">{state}, {}</td></tr>"#,
                escape(name.unwrap_or("")),
                row.view.summary.id,
                row.view.summary.status
            );
        }
        body.push_str("</table>");
        if rows.len() >= SHOWN {
            body.push_str("<p>The rest: <code>pagesync page list</code></p>");
        }
    } else {
        body.push_str("<p>Looking for your Pages. This page goes on by itself.</p>");
    }
    let title = if connected.complete {
        "Connected"
    } else {
        "Connecting"
    };
    let refresh = (!connected.complete).then_some(again);
    html(StatusCode::OK, title, refresh, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_chose_cannot_be_markup() {
        assert_eq!(
            escape(r#"<img onerror="x">&'"#),
            "&lt;img onerror=&quot;x&quot;&gt;&amp;&#39;"
        );
    }
}
