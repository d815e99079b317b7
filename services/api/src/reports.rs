//! The schedule and the report of missed webhooks.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use common::problem::Problem;
use common::records::missed_webhooks;
use common::views::missed::{MissedView, missed_view};
use common::views::schedule::{ScheduleView, load_schedule};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::auth::Caller;
use crate::context::Context;
use crate::query::Parameters;

/// Show the schedule
///
/// The next due polls and the results of the daily polls. The key must not be limited.
#[utoipa::path(
    get, operation_id = "show_schedule", path = "/v1/schedule", tag = "Reports",
    responses((status = 200, body = ScheduleView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn schedule(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ScheduleView>, Problem> {
    caller.require_unlimited()?;
    Ok(Json(
        load_schedule(&*context.store, context.clock.now()).await?,
    ))
}

/// The parameters of the report of missed webhooks.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Days {
    /// How many local days to include, ending today, from 1 to 90; 7 by default.
    days: Option<u32>,
}

/// Show missed webhooks
///
/// How many changes webhooks announced, and which changes they did not. The key must not be limited.
#[utoipa::path(
    get, operation_id = "show_missed_webhooks", path = "/v1/missed", tag = "Reports", params(Days),
    responses((status = 200, body = MissedView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn missed(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Parameters(Days { days }): Parameters<Days>,
) -> Result<Json<MissedView>, Problem> {
    caller.require_unlimited()?;
    let days = days.unwrap_or(7);
    if !(1..=90).contains(&days) {
        return Err(Problem::invalid("days is a number from 1 to 90"));
    }
    let now = context.clock.now();
    let first_day = context.daily_schedule.first_of_days(days, now);
    let report = missed_webhooks::report(&*context.store, &first_day, now).await?;
    Ok(Json(missed_view(&report, now)))
}
