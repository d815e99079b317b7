//! The control surface under `/_sim`: what a test or a person does to this Facebook.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use serde_json::Value;

use crate::delivery::Faults;
use crate::facebook::{Canned, EDGES, Habits, Person, kill};
use crate::scenario::{Death, Scenario, check};
use crate::signed_request::{self, Answered};
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
        .route("/_sim/people/{id}/permissions/{name}", delete(revoke))
        .route("/_sim/people/{id}/deauthorize", post(deauthorize))
        .route("/_sim/people/{id}/data-deletion", post(delete_data))
        .route("/_sim/scenario", post(scenario))
        .route("/_sim/clock", get(clock).post(set_clock))
        .route("/_sim/habits", get(habits).put(set_habits))
        .route("/_sim/replies", put(set_replies))
        .route("/_sim/calls", get(calls).delete(forget_calls))
        .route("/_sim/tokens", delete(kill_tokens))
        .route("/_sim/subscriptions", get(subscriptions))
        .route("/_sim/faults", get(faults).put(set_faults))
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
    if !simulator.world().has(&id) {
        let reason = format!("there is no Page {id}: see GET /_sim/pages");
        return Err(refusal(StatusCode::NOT_FOUND, &reason));
    }
    simulator
        .change(&id, fields)
        .map(Json)
        .map_err(|reason| refusal(StatusCode::BAD_REQUEST, &reason))
}

async fn faults(State(simulator): State<Simulator>) -> Json<Faults> {
    Json(simulator.faults())
}

async fn set_faults(
    State(simulator): State<Simulator>,
    Json(faults): Json<Faults>,
) -> Result<StatusCode, Refusal> {
    let sane = faults.check();
    sane.map_err(|reason| refusal(StatusCode::BAD_REQUEST, &reason))?;
    simulator.set_faults(faults);
    Ok(StatusCode::NO_CONTENT)
}

async fn revoke(
    State(simulator): State<Simulator>,
    Path((user, permission)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let revoked = simulator.facebook().revoke(&user, &permission);
    revoked.map_err(|reason| refusal(StatusCode::NOT_FOUND, &reason))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where a callback of the dashboard is.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    callback: String,
}

async fn deauthorize(
    State(simulator): State<Simulator>,
    Path(user): Path<String>,
    Json(to): Json<To>,
) -> Result<Json<Answered>, Refusal> {
    somebody(&simulator, &user)?;
    {
        // Facebook ends the tokens first, then says so.
        let death = Death {
            user: Some(user.clone()),
            page: None,
            subcode: 458,
        };
        kill(&mut simulator.facebook(), &death);
    }
    let answered = signed_request::post(&simulator, &user, &to.callback).await;
    Ok(Json(answered))
}

async fn delete_data(
    State(simulator): State<Simulator>,
    Path(user): Path<String>,
    Json(to): Json<To>,
) -> Result<Json<Answered>, Refusal> {
    somebody(&simulator, &user)?;
    let answered = signed_request::post(&simulator, &user, &to.callback).await;
    Ok(Json(answered))
}

fn somebody(simulator: &Simulator, user: &str) -> Result<(), Refusal> {
    if simulator.facebook().people.contains_key(user) {
        return Ok(());
    }
    let reason = format!("there is no person {user}: see GET /_sim/people");
    Err(refusal(StatusCode::NOT_FOUND, &reason))
}

async fn scenario(State(simulator): State<Simulator>, text: String) -> Result<StatusCode, Refusal> {
    let scenario = Scenario::parse(&text);
    let scenario = scenario.map_err(|reason| refusal(StatusCode::BAD_REQUEST, &reason))?;
    tokio::spawn(scenario.play(simulator));
    Ok(StatusCode::ACCEPTED)
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

async fn set_habits(
    State(simulator): State<Simulator>,
    Json(habits): Json<Habits>,
) -> Result<StatusCode, Refusal> {
    let known = check(habits.errors.keys());
    known.map_err(|reason| refusal(StatusCode::BAD_REQUEST, &reason))?;
    simulator.facebook().habits = habits;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_replies(
    State(simulator): State<Simulator>,
    Json(replies): Json<Vec<Canned>>,
) -> Result<StatusCode, Refusal> {
    let known = check(replies.iter().filter_map(|canned| canned.fault.as_ref()));
    known.map_err(|reason| refusal(StatusCode::BAD_REQUEST, &reason))?;
    if let Some(odd) = replies.iter().find(|canned| !canned.names_an_edge()) {
        let edges = EDGES.join(", ");
        let reason = format!(
            "there is no edge {:?}; a method and one of {edges}",
            odd.edge
        );
        return Err(refusal(StatusCode::BAD_REQUEST, &reason));
    }
    simulator.facebook().canned = replies
        .into_iter()
        .filter(|canned| canned.times > 0)
        .collect();
    Ok(StatusCode::NO_CONTENT)
}

async fn calls(State(simulator): State<Simulator>) -> Json<Value> {
    Json(serde_json::json!(simulator.facebook().calls))
}

async fn forget_calls(State(simulator): State<Simulator>) -> StatusCode {
    simulator.facebook().calls.clear();
    StatusCode::NO_CONTENT
}

async fn kill_tokens(
    State(simulator): State<Simulator>,
    Json(death): Json<Death>,
) -> Result<StatusCode, Refusal> {
    if kill(&mut simulator.facebook(), &death) == 0 {
        let reason = "no token is of that person and that Page";
        return Err(refusal(StatusCode::NOT_FOUND, reason));
    }
    Ok(StatusCode::NO_CONTENT)
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
