//! The control surface under `/_sim`: what a test or a person does to this Facebook.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use serde_json::Value;

use crate::delivery::Faults;
use crate::facebook::{Canned, Habits, Person};
use crate::world::Page;
use crate::{Simulator, dialog, graph};

type Refusal = (StatusCode, Json<Value>);

fn refusal(status: StatusCode, reason: &str) -> Refusal {
    (status, Json(serde_json::json!({"error": reason})))
}

/// The routes.
pub fn router(simulator: Simulator) -> Router {
    Router::new()
        .route("/_sim/pages", get(pages).post(put_pages))
        .route("/_sim/pages/{id}", patch(change).delete(remove))
        .route("/_sim/people", get(people).post(put_people))
        .route("/_sim/clock", get(clock).post(set_clock))
        .route("/_sim/habits", get(habits).put(set_habits))
        .route("/_sim/replies", put(set_replies))
        .route("/_sim/calls", get(calls).delete(forget_calls))
        .route("/_sim/tokens", delete(kill_tokens))
        .route("/_sim/subscriptions", get(subscriptions))
        .route("/_sim/faults", put(faults))
        .route("/_sim/test-button", post(test_button))
        .route("/_sim/deliveries", get(deliveries))
        .route(
            "/{version}/dialog/oauth",
            get(dialog::show).post(dialog::decide),
        )
        .fallback(graph::handle)
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

async fn remove(State(simulator): State<Simulator>, Path(id): Path<String>) -> StatusCode {
    if simulator.world().remove(&id) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }
}

async fn people(State(simulator): State<Simulator>) -> Json<Vec<Person>> {
    Json(simulator.facebook().people.values().cloned().collect())
}

async fn put_people(
    State(simulator): State<Simulator>,
    Json(people): Json<Vec<Person>>,
) -> StatusCode {
    let mut facebook = simulator.facebook();
    facebook
        .people
        .extend(people.into_iter().map(|person| (person.id.clone(), person)));
    StatusCode::CREATED
}

/// How far this Facebook's clock is ahead of the machine's.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Ahead {
    ahead_seconds: i64,
}

async fn clock(State(simulator): State<Simulator>) -> Json<Ahead> {
    let ahead_seconds = simulator.facebook().ahead;
    Json(Ahead { ahead_seconds })
}

async fn set_clock(State(simulator): State<Simulator>, Json(ahead): Json<Ahead>) -> StatusCode {
    simulator.facebook().ahead = ahead.ahead_seconds;
    StatusCode::NO_CONTENT
}

async fn habits(State(simulator): State<Simulator>) -> Json<Habits> {
    Json(simulator.facebook().habits.clone())
}

async fn set_habits(State(simulator): State<Simulator>, Json(habits): Json<Habits>) -> StatusCode {
    simulator.facebook().habits = habits;
    StatusCode::NO_CONTENT
}

async fn set_replies(
    State(simulator): State<Simulator>,
    Json(replies): Json<Vec<Canned>>,
) -> StatusCode {
    simulator.facebook().canned = replies
        .into_iter()
        .filter(|canned| canned.times > 0)
        .collect();
    StatusCode::NO_CONTENT
}

async fn calls(State(simulator): State<Simulator>) -> Json<Value> {
    Json(serde_json::json!(simulator.facebook().calls))
}

async fn forget_calls(State(simulator): State<Simulator>) -> StatusCode {
    simulator.facebook().calls.clear();
    StatusCode::NO_CONTENT
}

/// Which tokens die, and of what.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Death {
    /// Only those of this person.
    user: Option<String>,
    /// Only that of this Page.
    page: Option<String>,
    /// The subcode Graph answers with.
    subcode: u64,
}

async fn kill_tokens(State(simulator): State<Simulator>, Json(death): Json<Death>) -> StatusCode {
    let mut facebook = simulator.facebook();
    for token in facebook.tokens.values_mut() {
        let user = death.user.as_ref().is_none_or(|user| *user == token.user);
        let page = death
            .page
            .as_deref()
            .is_none_or(|page| graph::page_of(token) == Some(page));
        if user && page {
            token.dead = Some(death.subcode);
        }
    }
    StatusCode::NO_CONTENT
}

async fn subscriptions(State(simulator): State<Simulator>) -> Json<Value> {
    let facebook = simulator.facebook();
    let app = facebook.subscription.as_ref().map(|app| {
        serde_json::json!({"callback": app.callback, "include_values": app.include_values, "fields": app.fields})
    });
    Json(serde_json::json!({"app": app, "pages": facebook.installed}))
}

async fn test_button(State(simulator): State<Simulator>) -> Result<StatusCode, Refusal> {
    let pressed = simulator.press_test_button();
    pressed.map_err(|reason| refusal(StatusCode::CONFLICT, &reason))?;
    Ok(StatusCode::ACCEPTED)
}
