//! The control surface under `/_sim`: what a test or a person does to this Facebook.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, patch, put};
use axum::{Json, Router};
use serde_json::Value;

use crate::Simulator;
use crate::delivery::Faults;
use crate::world::Page;

type Refusal = (StatusCode, Json<Value>);

fn refusal(status: StatusCode, reason: &str) -> Refusal {
    (status, Json(serde_json::json!({"error": reason})))
}

/// The routes.
pub fn router(simulator: Simulator) -> Router {
    Router::new()
        .route("/_sim/pages", get(pages).post(put_pages))
        .route("/_sim/pages/{id}", patch(change))
        .route("/_sim/faults", put(faults))
        .route("/_sim/deliveries", get(deliveries))
        .with_state(simulator)
}

async fn pages(State(simulator): State<Simulator>) -> Json<Vec<Page>> {
    Json(simulator.pages())
}

async fn put_pages(
    State(simulator): State<Simulator>,
    Json(pages): Json<Vec<Page>>,
) -> Result<StatusCode, Refusal> {
    for page in pages {
        simulator
            .put_page(&page)
            .map_err(|reason| refusal(StatusCode::BAD_REQUEST, &reason))?;
    }
    Ok(StatusCode::CREATED)
}

async fn change(
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    Json(fields): Json<Page>,
) -> Result<Json<Page>, Refusal> {
    simulator
        .change(&id, fields)
        .map(Json)
        .map_err(|reason| refusal(StatusCode::NOT_FOUND, &reason))
}

async fn faults(State(simulator): State<Simulator>, Json(faults): Json<Faults>) -> StatusCode {
    simulator.set_faults(faults);
    StatusCode::NO_CONTENT
}

async fn deliveries(State(simulator): State<Simulator>) -> Json<Value> {
    Json(simulator.tally().json())
}
