//! Reads of connections.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use common::problem::{Code, Problem};
use common::store::PageIndex;
use common::views::connection::{
    ConnectionDetail, ConnectionView, list_connections, load_connection,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::context::Context;
use crate::page_filter::PageFilter;
use crate::query::{self, Id, Parameters};

/// The connections.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConnectionList {
    /// The connections, ordered by their ids.
    connections: Vec<ConnectionView>,
}

/// The parameters that select connections.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfClient {
    /// Only connections of this client.
    client: Option<String>,
}

/// List connections
///
/// The people who logged in. A key that is limited to some Pages may not see them.
#[utoipa::path(
    get, operation_id = "list_connections", path = "/v1/connections", tag = "Connections", params(OfClient),
    responses((status = 200, body = ConnectionList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn list(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Parameters(OfClient { client }): Parameters<OfClient>,
) -> Result<Json<ConnectionList>, Problem> {
    require_no_pages(&caller)?;
    let limit = caller.key.client.as_deref();
    if limit.is_some() && client.is_some() && client.as_deref() != limit {
        let connections = Vec::new();
        return Ok(Json(ConnectionList { connections }));
    }
    let client = client.as_deref().or(limit);
    let (store, now) = (&*context.store, context.clock.now());
    let connections = list_connections(store, client, &context.scopes, now).await?;
    Ok(Json(ConnectionList { connections }))
}

/// Show a connection
///
/// A connection with its Pages. `login_address` is null: `pagesync connection show` prints it.
#[utoipa::path(
    get, operation_id = "show_connection", path = "/v1/connections/{id}", tag = "Connections",
    params(("id" = String, Path, description = "The app-scoped id of the person.")),
    responses((status = 200, body = ConnectionDetail), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn show(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
) -> Result<Json<ConnectionDetail>, Problem> {
    visible_connection(&context, &caller, &id).await.map(Json)
}

/// Returns a connection that the key may see.
pub(crate) async fn visible_connection(
    context: &Context,
    caller: &Caller,
    id: &str,
) -> Result<ConnectionDetail, Problem> {
    require_no_pages(caller)?;
    let user = query::user_id(id)?;
    let now = context.clock.now();
    let found = load_connection(&*context.store, &user, &context.scopes, now).await?;
    let limit = caller.key.client.as_ref();
    let mut found = found
        .filter(|detail| limit.is_none() || detail.connection.client.as_ref() == limit)
        .ok_or_else(|| Problem::not_found("connection"))?;
    if limit.is_some() {
        // Another person can have moved a Page to another client.
        let ids = PageIndex::Connection(user);
        let pages = PageFilter::of_key(ids, caller)
            .all_ids(&*context.store)
            .await?;
        found.page_ids.retain(|id| pages.contains(id));
    }
    Ok(found)
}

/// Fails if the key is limited to some Pages.
fn require_no_pages(caller: &Caller) -> Result<(), Problem> {
    if caller.key.pages.is_none() {
        return Ok(());
    }
    let detail = "the key is limited to some Pages, and may not see people";
    Err(Problem::new(Code::Forbidden, detail))
}
