//! The actions: requests of reads, and replays and discards of dead letters.
//!
//! Invariant: an action names the version of its object, and does nothing if the object has another one.
//! Each is the operation that the command of the same name executes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use common::pages::{self, RequestedRead};
use common::problem::{Code, Problem};
use common::records::connection;
use common::records::dead_letter;
use common::store::Versioned;
use common::timestamp::rfc3339;
use model::time::HostTime;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::audit::{Action, recorded};
use crate::auth::Caller;
use crate::connections::visible_connection;
use crate::context::Context;
use crate::pages::visible_page;
use crate::query::{Id, Target};

fn action(name: &'static str, kind: &'static str, id: &str, target: Target) -> Action {
    Action {
        name,
        kind,
        id: id.to_owned(),
        version: target.version,
    }
}

/// A read that was requested.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReadRequested {
    /// When the read is due, on this host's clock. A rate limit of Facebook can delay it.
    due_at: String,
}

impl ReadRequested {
    fn new(due_at: HostTime) -> (StatusCode, Json<Self>) {
        let due_at = rfc3339(due_at);
        (StatusCode::ACCEPTED, Json(Self { due_at }))
    }
}

/// Request a read of a Page
///
/// Reads the Page at Facebook as soon as possible. The key must have the scope `operate`.
#[utoipa::path(
    post, operation_id = "read_page", path = "/v1/pages/{id}/read", tag = "Pages", request_body = Target,
    params(("id" = String, Path, description = "The id of the Page.")),
    responses((status = 202, body = ReadRequested), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn read_page(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    target: Target,
) -> Result<(StatusCode, Json<ReadRequested>), Problem> {
    let action = action("page.read", "page", &id, target);
    let (in_context, of_caller) = (context.clone(), caller.clone());
    let outcome = async move { request_page_read(&in_context, &of_caller, &id, target).await };
    let due_at = recorded(context, caller, action, outcome).await?;
    Ok(ReadRequested::new(due_at))
}

async fn request_page_read(
    context: &Context,
    caller: &Caller,
    id: &str,
    target: Target,
) -> Result<HostTime, Problem> {
    let (id, version, page) = visible_page(context, caller, id).await?;
    if version != target.version {
        return Err(Problem::conflict(version));
    }
    let now = context.clock.now();
    match pages::request_read_of(&*context.store, &id, version, *page, now).await? {
        RequestedRead::Due(at) => Ok(at),
        RequestedRead::Erased => Err(Problem::not_found("Page")),
        RequestedRead::Changed => {
            let (_, present, _) = visible_page(context, caller, id.as_str()).await?;
            Err(Problem::conflict(present))
        }
    }
}

/// Request a read of a connection
///
/// Reads all Pages of the connection as soon as possible. The key must have the scope `operate`.
#[utoipa::path(
    post, operation_id = "read_connection", path = "/v1/connections/{id}/read", tag = "Connections", request_body = Target,
    params(("id" = String, Path, description = "The app-scoped id of the person.")),
    responses((status = 202, body = ReadRequested), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn read_connection(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    target: Target,
) -> Result<(StatusCode, Json<ReadRequested>), Problem> {
    let action = action("connection.read", "connection", &id, target);
    let (in_context, of_caller) = (context.clone(), caller.clone());
    let outcome =
        async move { request_connection_read(&in_context, &of_caller, &id, target).await };
    let due_at = recorded(context, caller, action, outcome).await?;
    Ok(ReadRequested::new(due_at))
}

async fn request_connection_read(
    context: &Context,
    caller: &Caller,
    id: &str,
    target: Target,
) -> Result<HostTime, Problem> {
    let detail = visible_connection(context, caller, id).await?;
    let (user, present) = (detail.connection.id, detail.connection.version);
    if present != target.version {
        return Err(Problem::conflict(present));
    }
    let (store, now) = (&*context.store, context.clock.now());
    let requested = connection::request_poll_of(store, &user, present, now).await?;
    if let Some(at) = requested {
        return Ok(at);
    }
    let detail = visible_connection(context, caller, id).await?;
    Err(Problem::conflict(detail.connection.version))
}

/// What became of a dead letter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterDone {
    /// Whether the dead letter is deleted. After a replay while too many dead letters are stored, it is
    /// retained until it is discarded.
    is_deleted: bool,
}

/// Replay a dead letter
///
/// Publishes its job again and deletes the dead letter. The key must have the scope `operate`.
#[utoipa::path(
    post, operation_id = "replay_dead_letter", path = "/v1/dead-letters/{id}/replay", tag = "Dead letters", request_body = Target,
    params(("id" = String, Path, description = "The id of the dead letter.")),
    responses((status = 200, body = DeadLetterDone), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn replay_dead_letter(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    target: Target,
) -> Result<Json<DeadLetterDone>, Problem> {
    let action = action("dead_letter.replay", "dead_letter", &id, target);
    let (in_context, of_caller) = (context.clone(), caller.clone());
    let outcome = async move {
        let chosen = chosen_dead_letter(&in_context, &of_caller, &id, target).await?;
        if !dead_letter::is_readable(&chosen.1) {
            let detail = "this version of pagesync cannot read the dead letter";
            return Err(Problem::new(Code::UnreadableData, detail));
        }
        let (store, queue) = (&*in_context.store, &*in_context.queue);
        let (now, chosen) = (in_context.clock.now(), [chosen]);
        Ok(dead_letter::replay(store, queue, now, &chosen).await?)
    };
    let is_deleted = recorded(context, caller, action, outcome).await?;
    Ok(Json(DeadLetterDone { is_deleted }))
}

/// Discard a dead letter
///
/// Deletes it without executing its job. The key must have the scope `operate`.
#[utoipa::path(
    post, operation_id = "discard_dead_letter", path = "/v1/dead-letters/{id}/discard", tag = "Dead letters", request_body = Target,
    params(("id" = String, Path, description = "The id of the dead letter.")),
    responses((status = 200, body = DeadLetterDone), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn discard_dead_letter(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    target: Target,
) -> Result<Json<DeadLetterDone>, Problem> {
    let action = action("dead_letter.discard", "dead_letter", &id, target);
    let (in_context, of_caller) = (context.clone(), caller.clone());
    let outcome = async move {
        let chosen = chosen_dead_letter(&in_context, &of_caller, &id, target).await?;
        if dead_letter::discard_version(&*in_context.store, chosen).await? {
            return Ok(());
        }
        // It has changed since it was loaded.
        let (_, present) = chosen_dead_letter(&in_context, &of_caller, &id, target).await?;
        Err(Problem::conflict(present.version))
    };
    recorded(context, caller, action, outcome).await?;
    Ok(Json(DeadLetterDone { is_deleted: true }))
}

/// Returns the dead letter of an action as it is stored.
async fn chosen_dead_letter(
    context: &Context,
    caller: &Caller,
    id: &str,
    target: Target,
) -> Result<(String, Versioned<Value>), Problem> {
    caller.require_unlimited()?;
    let chosen = dead_letter::load_chosen(&*context.store, &[id.to_owned()]).await?;
    match chosen.into_iter().next() {
        Some(chosen) if chosen.1.version == target.version => Ok(chosen),
        Some((_, stored)) => Err(Problem::conflict(stored.version)),
        None => Err(Problem::not_found("dead letter")),
    }
}
