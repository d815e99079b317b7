//! The checks of `doctor`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use common::problem::Problem;
use common::views::check::Check;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::context::Context;

/// The results of the checks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckList {
    /// The checks, in the order in which `doctor` prints them.
    checks: Vec<Check>,
}

/// Check the deployment
///
/// The checks of `pagesync doctor` that are possible where the API runs. They are made at most every 30
/// seconds. The key must not be limited.
#[utoipa::path(
    get, operation_id = "list_checks", path = "/v1/checks", tag = "Reports",
    responses((status = 200, body = CheckList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn list(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<CheckList>, Problem> {
    caller.require_unlimited()?;
    let checks = context.checks.results().await;
    Ok(Json(CheckList { checks }))
}
