//! Gives the token of a Page to a program of the operator, such as a bot that answers messages.
//!
//! Invariants: a token leaves only with a key of the scope `token` that may see the Page. The audit names
//! the key and the Page, and is committed before the answer. This module is the only one that reveals a
//! token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use common::authentication::KeyCache;
use common::problem::{Code, Problem};
use common::records::api_key::{ApiKey, Scope};
use common::records::audit::{self, AuditRecord};
use common::records::connection::Connection;
use common::store::{StoredPage, load_page};
use common::timestamp::rfc3339;
use model::id::PageId;
use model::page::{Page, Status};
use model::time::HostTime;
use serde_json::json;

use crate::context::Context;
use crate::poll::page_tokens::{TokenError, best_token};

/// How many tokens a key may get in a minute from one process. A bot keeps a token until Facebook
/// refuses it.
const MAX_TOKENS_PER_MINUTE: u32 = 300;
const MINUTE: Duration = Duration::from_secs(60);

/// The state of the listener.
struct Listener {
    context: Context,
    keys: KeyCache,
    /// The beginning of the present minute, on this host's clock, and the tokens since, by id of the key.
    counts: Mutex<HashMap<String, (HostTime, u32)>>,
}

/// Returns the routes of the token listener.
pub fn router(context: Context) -> Router {
    let listener = Listener {
        context,
        keys: KeyCache::default(),
        counts: Mutex::default(),
    };
    Router::new()
        .route("/page-tokens/{id}", get(answer))
        .fallback(async || Problem::new(Code::NotFound, "there is no such path"))
        .with_state(Arc::new(listener))
}

/// Handles `GET /page-tokens/{id}`.
async fn answer(
    State(listener): State<Arc<Listener>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    // An id that is no text is no id of a Page, either.
    let id = id.map(|Path(id)| id).unwrap_or_default();
    let mut response = match listener.token(&id, &headers).await {
        Ok(body) => Json(body).into_response(),
        Err(problem) => problem.into_response(),
    };
    let no_store = header::HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

impl Listener {
    async fn token(&self, id: &str, headers: &HeaderMap) -> Result<serde_json::Value, Problem> {
        let (store, now) = (&*self.context.store, self.context.clock.now());
        let header = headers.get(header::AUTHORIZATION);
        let header = header.and_then(|value| value.to_str().ok());
        let (key_id, key) = self.keys.authenticate(store, header, now).await?;
        let id = PageId::parse(id)
            .map_err(|_| Problem::invalid("the id of a Page has 1 to 20 digits"))?;
        if key.scope != Scope::Token {
            let detail =
                "tokens need a key of the scope token: `pagesync api-key create --scope token`";
            return Err(Problem::new(Code::Forbidden, detail));
        }
        // Requests beyond the limit are not recorded, so that they cannot fill the store.
        self.count(&key_id)?;
        let given = self.open_token(&key, &id).await;
        let outcome = given
            .as_ref()
            .err()
            .map_or("done", |problem| problem.code().name());
        let record = AuditRecord {
            at: now,
            actor: key_id,
            actor_name: Some(key.name.clone()),
            action: "page_token.get".to_owned(),
            target: format!("page:{id}"),
            version: None,
            outcome: outcome.to_owned(),
        };
        audit::record(store, &record).await?;
        self.context.metrics.page_tokens.count(outcome);
        given
    }

    async fn open_token(&self, key: &ApiKey, id: &PageId) -> Result<serde_json::Value, Problem> {
        let store = &*self.context.store;
        let StoredPage::Page(page) = load_page(store, id).await?.value else {
            return Err(Problem::not_found("Page"));
        };
        if page.status == Status::Erased || !key.may_see(id, page.client.as_deref()) {
            return Err(Problem::not_found("Page"));
        }
        refuse_without_access(&page)?;
        let best = best_token(&self.context, id, key.client.as_deref()).await;
        let (token, connection) = match best {
            Ok(best) => best,
            Err(TokenError::Store(error)) => return Err(error.into()),
            Err(TokenError::NoToken(reason)) => {
                let failure = reason.failure(self.context.clock.now());
                return Err(no_token(&failure.reason, &failure.remedy));
            }
        };
        Ok(json!({
            "page_id": id,
            "token": token.reveal(),
            "permissions": connection.permissions,
            "ends_at": end_of(&connection),
        }))
    }

    /// Counts a token of a key. Fails if the key has got too many in this minute.
    fn count(&self, key_id: &str) -> Result<(), Problem> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.context.clock.now();
        counts.retain(|_, (began, _)| began.until(now) < MINUTE);
        let (_, count) = counts.entry(key_id.to_owned()).or_insert((now, 0));
        *count += 1;
        if *count <= MAX_TOKENS_PER_MINUTE {
            return Ok(());
        }
        let detail = format!(
            "a key gets up to {MAX_TOKENS_PER_MINUTE} tokens in a minute: keep a token until Facebook refuses it"
        );
        Err(Problem::new(Code::TooManyRequests, detail))
    }
}

/// Fails if the last attempt to read the Page found that no token gives access to it.
fn refuse_without_access(page: &Page) -> Result<(), Problem> {
    let has_access = !matches!(
        page.status,
        Status::NeedsLogin | Status::NeedsPermission | Status::NeedsKey | Status::NoToken
    );
    if has_access {
        return Ok(());
    }
    let failure = page.last_failure.as_ref();
    let remedy = "`pagesync page explain` shows why, and `pagesync connection invite` prints the address to log in";
    Err(match failure {
        Some(failure) => no_token(&failure.reason, &failure.remedy),
        None => no_token(
            &format!("the status of the Page is {}", page.status),
            remedy,
        ),
    })
}

fn no_token(reason: &str, remedy: &str) -> Problem {
    Problem::new(Code::NoToken, format!("{reason}. Fix: {remedy}"))
}

/// Returns the earlier of the times at which the token and the access to data end.
fn end_of(connection: &Connection) -> Option<String> {
    let ends = [
        connection.token_expires_at,
        connection.data_access_expires_at,
    ];
    ends.into_iter().flatten().min().map(rfc3339)
}
