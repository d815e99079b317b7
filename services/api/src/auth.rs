//! Checks the key of each request.
//!
//! Invariant: a handler runs only after this check.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use common::problem::{Code, Problem};
use common::records::api_key::{ApiKey, Scope};
use model::id::PageId;

use crate::context::Context;

/// The key with which a request was made. Each request has it as an extension.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The id of the key.
    pub(crate) id: String,
    /// The record of the key.
    pub(crate) key: Arc<ApiKey>,
}

impl Caller {
    /// Fails if the key has ended or was revoked since the request began.
    pub(crate) async fn require_usable(&self, context: &Context) -> Result<(), Problem> {
        let (store, now) = (&*context.store, context.clock.now());
        context.keys.require_usable(store, &self.id, now).await
    }

    /// Fails unless the key allows actions.
    pub(crate) fn require_operate(&self) -> Result<(), Problem> {
        if self.key.scope == Scope::Operate {
            return Ok(());
        }
        let detail =
            "the key has the scope read: make one with `pagesync api-key create --scope operate`";
        Err(Problem::new(Code::Forbidden, detail))
    }

    /// Fails if the key is limited to Pages or a client, because the answer would concern all of them.
    pub(crate) fn require_unlimited(&self) -> Result<(), Problem> {
        if !self.key.is_limited() {
            return Ok(());
        }
        let detail =
            "the key is limited to some Pages or a client, and this path concerns all of them";
        Err(Problem::new(Code::Forbidden, detail))
    }

    /// Returns whether the key may see a Page of this client.
    pub(crate) fn may_see(&self, page: &PageId, client: Option<&str>) -> bool {
        self.key.may_see(page, client)
    }
}

/// Answers a request without a usable key with 401, and passes on any other one.
pub(crate) async fn check(
    State(context): State<Arc<Context>>,
    mut request: Request,
    next: Next,
) -> Response {
    let header = request.headers().get(AUTHORIZATION);
    let text = header.and_then(|value| value.to_str().ok());
    match caller(&context, text).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => {
            context.metrics.api_refusals.count(problem.code().name());
            problem.into_response()
        }
    }
}

async fn caller(context: &Context, header: Option<&str>) -> Result<Caller, Problem> {
    let (store, now) = (&*context.store, context.clock.now());
    let (id, key) = context.keys.authenticate(store, header, now).await?;
    if key.scope == Scope::Token {
        let detail = "the key has the scope token, which allows only /page-tokens of the worker";
        return Err(Problem::new(Code::Forbidden, detail));
    }
    Ok(Caller { id, key })
}
