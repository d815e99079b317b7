//! The role `api`: reads of Pages, connections and the change feed over HTTP, and the actions of an
//! operator.
//!
//! Invariants: it never opens a token. Every path needs a key. An action changes only records and the
//! queue, and is recorded before it is answered.

#![expect(
    unused_qualifications,
    reason = "the macros of utoipa repeat the paths of parameters"
)]

mod actions;
mod audit;
mod auth;
mod changes;
mod check_cache;
mod checks;
mod connections;
pub mod context;
mod csv_list;
mod dead_letters;
mod openapi;
mod page_filter;
mod pages;
pub mod push;
mod query;
mod reports;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use common::problem::{Code, Problem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::context::Context;

pub use check_cache::RunChecks;

/// The largest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Returns the routes below `/v1`.
pub fn router(context: Context) -> Router {
    let context = Arc::new(context);
    let (router, _) = documented_routes().split_for_parts();
    router
        .route_layer(middleware::from_fn_with_state(context.clone(), auth::check))
        .fallback(async || Problem::new(Code::NotFound, "there is no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(Code::MethodNotAllowed, "the path does not have this method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(context)
}

/// Returns the description of the API (OpenAPI 3.1) as JSON text.
pub fn description() -> String {
    let (_, description) = documented_routes().split_for_parts();
    description
        .to_pretty_json()
        .unwrap_or_else(|error| unreachable!("a description encodes: {error}"))
}

/// Returns every route with its description.
fn documented_routes() -> OpenApiRouter<Arc<Context>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(pages::list))
        .routes(routes!(csv_list::pages))
        .routes(routes!(pages::counts))
        .routes(routes!(pages::show))
        .routes(routes!(pages::history))
        .routes(routes!(pages::explanation))
        .routes(routes!(actions::read_page))
        .routes(routes!(changes::list))
        .routes(routes!(connections::list))
        .routes(routes!(connections::show))
        .routes(routes!(actions::read_connection))
        .routes(routes!(reports::schedule))
        .routes(routes!(reports::missed))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::show))
        .routes(routes!(actions::replay_dead_letter))
        .routes(routes!(actions::discard_dead_letter))
        .routes(routes!(checks::list))
        .routes(routes!(audit::list))
}
