//! The control API: calls under `/_sim` with which a test or an operator changes the simulated
//! Facebook.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::conversation::{CustomerMessage, Message};
use crate::delivery::DeliveryFaults;
use crate::errors;
use crate::graph_faults::GraphFaults;
use crate::pages::Page;
use crate::people::{LoginConfiguration, Person};
use crate::scenario::Scenario;
use crate::scripted_reply::{self, ScriptedReply};
use crate::signed_request::{self, CallbackAnswer};
use crate::simulator::Simulator;
use crate::simulator_error::SimulatorError;
use crate::token::TokenInvalidation;

impl IntoResponse for SimulatorError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::UnknownPage(_) | Self::UnknownPerson(_) | Self::NoMatchingToken => {
                StatusCode::NOT_FOUND
            }
            Self::NotSubscribed => StatusCode::CONFLICT,
            Self::PageWithoutId
            | Self::UnknownPageField(_)
            | Self::FixedPageId
            | Self::InvalidProbability(_)
            | Self::UnknownAnswerFault(_)
            | Self::UnknownEdge(_)
            | Self::InvalidScenario(_) => StatusCode::BAD_REQUEST,
        };
        (status, Json(json!({"error": self.to_string()}))).into_response()
    }
}

/// Returns the routes of the control API.
pub(crate) fn routes() -> Router<Simulator> {
    Router::new()
        .route("/_sim/pages", get(pages).post(put_pages))
        .route("/_sim/pages/{id}", patch(change_page).delete(remove_page))
        .route("/_sim/pages/{id}/messages", post(write_message))
        .route("/_sim/pages/{id}/conversation", get(conversation))
        .route("/_sim/people", get(people).post(put_people))
        .route("/_sim/people/{id}/permissions/{name}", delete(revoke))
        .route("/_sim/people/{id}/deauthorize", post(deauthorize))
        .route("/_sim/people/{id}/data-deletion", post(delete_data))
        .route(
            "/_sim/login-configurations",
            get(login_configurations).put(set_login_configurations),
        )
        .route("/_sim/scenario", post(play_scenario))
        .route("/_sim/clock", get(clock).post(set_clock))
        .route(
            "/_sim/graph-faults",
            get(graph_faults).put(set_graph_faults),
        )
        .route("/_sim/replies", put(set_replies))
        .route("/_sim/calls", get(calls).delete(clear_calls))
        .route("/_sim/tokens", delete(invalidate_tokens))
        .route("/_sim/subscriptions", get(subscriptions))
        .route(
            "/_sim/delivery-faults",
            get(delivery_faults).put(set_delivery_faults),
        )
        .route("/_sim/test-button", post(press_test_button))
        .route("/_sim/deliveries", get(delivery_counts))
}

async fn pages(State(simulator): State<Simulator>) -> Json<Vec<Page>> {
    Json(simulator.pages())
}

async fn put_pages(
    State(simulator): State<Simulator>,
    Json(pages): Json<Vec<Page>>,
) -> Result<StatusCode, SimulatorError> {
    for page in pages {
        simulator.put_page(&page)?;
    }
    Ok(StatusCode::CREATED)
}

async fn change_page(
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    Json(fields): Json<Page>,
) -> Result<Json<Page>, SimulatorError> {
    simulator.change(&id, fields).map(Json)
}

async fn remove_page(State(simulator): State<Simulator>, Path(id): Path<String>) -> StatusCode {
    if simulator.lock_pages().remove(&id) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }
}

async fn write_message(
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    Json(message): Json<CustomerMessage>,
) -> Result<(StatusCode, Json<Value>), SimulatorError> {
    let mid = simulator.write_message(&id, &message)?;
    Ok((StatusCode::CREATED, Json(json!({"mid": mid}))))
}

async fn conversation(
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
) -> Json<Vec<Message>> {
    Json(simulator.facebook().conversations.of_page(&id).to_vec())
}

async fn people(State(simulator): State<Simulator>) -> Json<Vec<Person>> {
    Json(simulator.facebook().people.values().cloned().collect())
}

async fn put_people(
    State(simulator): State<Simulator>,
    Json(people): Json<Vec<Person>>,
) -> StatusCode {
    let people = people.into_iter().map(|person| (person.id.clone(), person));
    simulator.facebook().people.extend(people);
    StatusCode::CREATED
}

async fn login_configurations(
    State(simulator): State<Simulator>,
) -> Json<BTreeMap<String, LoginConfiguration>> {
    Json(simulator.facebook().login_configurations.clone())
}

async fn set_login_configurations(
    State(simulator): State<Simulator>,
    Json(configurations): Json<BTreeMap<String, LoginConfiguration>>,
) -> StatusCode {
    simulator.facebook().login_configurations = configurations;
    StatusCode::NO_CONTENT
}

async fn revoke(
    State(simulator): State<Simulator>,
    Path((user, permission)): Path<(String, String)>,
) -> Result<StatusCode, SimulatorError> {
    simulator.facebook().revoke(&user, &permission)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The address that a `signed_request` is posted to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallbackAddress {
    callback: String,
}

async fn deauthorize(
    State(simulator): State<Simulator>,
    Path(user): Path<String>,
    Json(address): Json<CallbackAddress>,
) -> Result<Json<CallbackAnswer>, SimulatorError> {
    check_person(&simulator, &user)?;
    // Facebook invalidates the tokens before it reports the deauthorization.
    simulator.facebook().invalidate_tokens(&TokenInvalidation {
        user: Some(user.clone()),
        page: None,
        subcode: 458,
    });
    let answer = signed_request::post(&simulator, &user, &address.callback).await;
    Ok(Json(answer))
}

async fn delete_data(
    State(simulator): State<Simulator>,
    Path(user): Path<String>,
    Json(address): Json<CallbackAddress>,
) -> Result<Json<CallbackAnswer>, SimulatorError> {
    check_person(&simulator, &user)?;
    let answer = signed_request::post(&simulator, &user, &address.callback).await;
    Ok(Json(answer))
}

fn check_person(simulator: &Simulator, user: &str) -> Result<(), SimulatorError> {
    if simulator.facebook().people.contains_key(user) {
        return Ok(());
    }
    Err(SimulatorError::UnknownPerson(user.to_owned()))
}

async fn play_scenario(
    State(simulator): State<Simulator>,
    text: String,
) -> Result<StatusCode, SimulatorError> {
    let scenario = Scenario::parse(&text)?;
    tokio::spawn(scenario.play(simulator));
    Ok(StatusCode::ACCEPTED)
}

/// How far the simulated clock is ahead of this host's clock.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockOffset {
    offset_seconds: i64,
}

async fn clock(State(simulator): State<Simulator>) -> Json<ClockOffset> {
    let offset_seconds = simulator.facebook().clock_offset_seconds;
    Json(ClockOffset { offset_seconds })
}

async fn set_clock(
    State(simulator): State<Simulator>,
    Json(offset): Json<ClockOffset>,
) -> StatusCode {
    simulator.facebook().clock_offset_seconds = offset.offset_seconds;
    StatusCode::NO_CONTENT
}

async fn graph_faults(State(simulator): State<Simulator>) -> Json<GraphFaults> {
    Json(simulator.facebook().graph_faults.clone())
}

async fn set_graph_faults(
    State(simulator): State<Simulator>,
    Json(faults): Json<GraphFaults>,
) -> Result<StatusCode, SimulatorError> {
    errors::check_fault_names(faults.errors.keys().chain(faults.refused_fields.values()))?;
    simulator.facebook().graph_faults = faults;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_replies(
    State(simulator): State<Simulator>,
    Json(mut replies): Json<Vec<ScriptedReply>>,
) -> Result<StatusCode, SimulatorError> {
    scripted_reply::check_faults(&replies)?;
    scripted_reply::check_edges(&replies)?;
    replies.retain(|reply| reply.times > 0);
    simulator.facebook().scripted_replies = replies;
    Ok(StatusCode::NO_CONTENT)
}

async fn calls(State(simulator): State<Simulator>) -> Json<Value> {
    Json(json!(simulator.facebook().calls))
}

async fn clear_calls(State(simulator): State<Simulator>) -> StatusCode {
    simulator.facebook().calls.clear();
    StatusCode::NO_CONTENT
}

async fn invalidate_tokens(
    State(simulator): State<Simulator>,
    Json(invalidation): Json<TokenInvalidation>,
) -> Result<StatusCode, SimulatorError> {
    if simulator.facebook().invalidate_tokens(&invalidation) == 0 {
        return Err(SimulatorError::NoMatchingToken);
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn subscriptions(State(simulator): State<Simulator>) -> Json<Value> {
    let facebook = simulator.facebook();
    let app = facebook.app_subscription.as_ref().map(|app| {
        json!({"callback": app.callback, "include_values": app.include_values, "fields": app.fields})
    });
    Json(json!({"app": app, "pages": facebook.page_subscriptions}))
}

async fn delivery_faults(State(simulator): State<Simulator>) -> Json<DeliveryFaults> {
    Json(simulator.delivery_faults())
}

async fn set_delivery_faults(
    State(simulator): State<Simulator>,
    Json(faults): Json<DeliveryFaults>,
) -> Result<StatusCode, SimulatorError> {
    faults.check()?;
    simulator.set_delivery_faults(faults);
    Ok(StatusCode::NO_CONTENT)
}

async fn press_test_button(
    State(simulator): State<Simulator>,
) -> Result<StatusCode, SimulatorError> {
    simulator.press_test_button()?;
    Ok(StatusCode::ACCEPTED)
}

async fn delivery_counts(State(simulator): State<Simulator>) -> Json<Value> {
    Json(simulator.delivery_counts().to_json())
}
