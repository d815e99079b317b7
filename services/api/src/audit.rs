//! Records the actions of the API and lists them.
//!
//! Invariant: an action is recorded before it is answered, also if it failed. If it cannot be recorded, the
//! answer is an error, although the action may have been executed.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use common::problem::{Code, Problem};
use common::records::audit::{self, AuditRecord};
use common::views::audit::{AuditView, audit_view};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::context::Context;
use crate::query::{self, Parameters};

/// An action and its object.
#[derive(Debug, Clone)]
pub(crate) struct Action {
    /// The name of the action.
    pub(crate) name: &'static str,
    /// The kind of the object.
    pub(crate) kind: &'static str,
    /// The id of the object.
    pub(crate) id: String,
    /// The version that the request named.
    pub(crate) version: u64,
}

/// Executes an action of a key with the scope `operate` and records its outcome, also if the client does
/// not wait for the answer.
pub(crate) async fn recorded<T: Send + 'static>(
    context: Arc<Context>,
    caller: Caller,
    action: Action,
    outcome: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    // A refused key must not be able to fill the audit.
    caller.require_operate()?;
    let recorded = tokio::spawn(async move {
        let outcome = outcome.await;
        record(&context, &caller, action, outcome.as_ref().err()).await?;
        outcome
    });
    let ended = |_| {
        Problem::new(
            Code::StoreUnavailable,
            "the action ended early: look at the audit",
        )
    };
    recorded.await.map_err(ended)?
}

async fn record(
    context: &Context,
    caller: &Caller,
    action: Action,
    problem: Option<&Problem>,
) -> Result<(), Problem> {
    let Action {
        name,
        kind,
        id,
        version,
    } = action;
    // An id that is none, which a request can contain, is not repeated.
    let is_id = id.len() <= 40 && id.bytes().all(|b| b.is_ascii_alphanumeric());
    let id = if is_id { &*id } else { "invalid" };
    let record = AuditRecord {
        at: context.clock.now(),
        actor: caller.id.clone(),
        actor_name: Some(caller.key.name.clone()),
        action: name.to_owned(),
        target: format!("{kind}:{id}"),
        version: Some(version),
        outcome: problem
            .map_or("done", |problem| problem.code().name())
            .to_owned(),
    };
    Ok(audit::record(&*context.store, &record).await?)
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
    let (found, next) = audit::list(&*context.store, after.as_deref(), limit).await?;
    Ok(Json(AuditList {
        next,
        actions: found
            .iter()
            .map(|(id, record)| audit_view(id, record))
            .collect(),
    }))
}
