//! Reads of dead letters.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use common::problem::Problem;
use common::records::dead_letter::{self, DeadLetter};
use common::views::dead_letter::{
    DeadLetterDetail, DeadLetterView, dead_letter_detail, dead_letter_view,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::context::Context;
use crate::query::{Id, Parameters};

/// A part of the list of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterList {
    /// The dead letters, ordered by their ids.
    dead_letters: Vec<DeadLetterView>,
    /// The cursor to go on; null after the last one.
    next: Option<String>,
}

/// The parameters of a list.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct After {
    /// Go on after this cursor, which is the `next` of the previous answer.
    after: Option<String>,
}

/// List dead letters
///
/// The jobs that failed for good, up to 250 in an answer. The key must not be limited.
#[utoipa::path(
    get, operation_id = "list_dead_letters", path = "/v1/dead-letters", tag = "Dead letters", params(After),
    responses((status = 200, body = DeadLetterList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn list(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Parameters(After { mut after }): Parameters<After>,
) -> Result<Json<DeadLetterList>, Problem> {
    caller.require_unlimited()?;
    let chunk = dead_letter::next_chunk::<DeadLetter>(&*context.store, &mut after).await?;
    let next = chunk.is_some().then_some(after).flatten();
    let chunk = chunk.unwrap_or_default();
    let view = |(id, stored): &(String, _)| dead_letter_view(id, stored);
    Ok(Json(DeadLetterList {
        dead_letters: chunk.iter().map(view).collect(),
        next,
    }))
}

/// Show a dead letter
///
/// A dead letter with the job that failed, which can contain data of people. The key must have the scope
/// `operate`.
#[utoipa::path(
    get, operation_id = "show_dead_letter", path = "/v1/dead-letters/{id}", tag = "Dead letters",
    params(("id" = String, Path, description = "The id of the dead letter.")),
    responses((status = 200, body = DeadLetterDetail), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn show(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
) -> Result<Json<DeadLetterDetail>, Problem> {
    caller.require_unlimited()?;
    caller.require_operate()?;
    let stored = dead_letter::find_or_fail(&*context.store, &id).await?;
    Ok(Json(dead_letter_detail(&id, &stored)))
}
