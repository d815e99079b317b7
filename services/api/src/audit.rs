//! Records the actions of the API and lists them.
//!
//! Invariant: an action is recorded before it is answered, also if it failed. If it cannot be recorded, the
//! answer is an error, although the action may have been executed.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use common::records::audit::{self, AuditRecord};
use common::views::audit::{AuditView, audit_view};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::context::Context;
use crate::query::{self, Parameters};
use common::problem::Problem;

/// An action and its object.
#[derive(Debug, Clone)]
pub(crate) struct Action<'a> {
    /// The name of the action.
    pub(crate) name: &'static str,
    /// The kind and the id of the object.
    pub(crate) target: (&'static str, &'a str),
    /// The version that the request named.
    pub(crate) version: u64,
}

/// Records the outcome of an action, and returns it.
pub(crate) async fn recorded<T>(
    context: &Context,
    caller: &Caller,
    action: Action<'_>,
    outcome: Result<T, Problem>,
) -> Result<T, Problem> {
    let code = outcome
        .as_ref()
        .err()
        .map_or("done", |problem| problem.code().name());
    let (kind, id) = action.target;
    // An id that is none, which a request can contain, is not repeated.
    let is_id = id.len() <= 40 && id.bytes().all(|b| b.is_ascii_alphanumeric());
    let record = AuditRecord {
        at: context.clock.now(),
        actor: caller.id.clone(),
        actor_name: Some(caller.key.name.clone()),
        action: action.name.to_owned(),
        target: format!("{kind}:{}", if is_id { id } else { "invalid" }),
        version: Some(action.version),
        outcome: code.to_owned(),
    };
    audit::record(&*context.store, &record).await?;
    outcome
}

/// A part of the audit.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditList {
    /// The actions, the newest first.
    actions: Vec<AuditView>,
    /// The cursor to go on; null after the oldest one.
    next: Option<String>,
}

/// The parameters of the audit.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// Go on after this cursor, which is the `next` of the previous answer.
    after: Option<String>,
    /// The largest number of actions in the answer, from 1 to 500; 100 by default.
    limit: Option<usize>,
}

/// List actions
///
/// Who did what, when, and with which outcome, the newest first. An action is stored for 90 days. The key
/// must have the scope `operate` and must not be limited.
#[utoipa::path(
    get, operation_id = "list_actions", path = "/v1/audit", tag = "Reports", params(Part),
    responses((status = 200, body = AuditList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn list(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Parameters(Part { after, limit }): Parameters<Part>,
) -> Result<Json<AuditList>, Problem> {
    caller.require_unlimited()?;
    caller.require_operate()?;
    let limit = query::limit(limit, 100, 500)?;
    let found = audit::list(&*context.store, after.as_deref(), limit).await?;
    let last = found.last().filter(|_| found.len() == limit);
    Ok(Json(AuditList {
        next: last.map(|(id, _)| id.clone()),
        actions: found
            .iter()
            .map(|(id, record)| audit_view(id, record))
            .collect(),
    }))
}
