//! Reads of single objects: the caller, one Page, and several Pages at once.

use serde_json::{Map, Value, json};

use super::call::Call;
use super::fields::{self, FieldSelection};
use super::page_object::page_object;
use super::refusal::{Answer, ErrorReply};
use crate::pages::id_of;
use crate::simulator::Simulator;

/// The fields of an object if the call names no fields.
const DEFAULT_FIELDS: &str = "id,name";
/// The maximum number of ids in a call.
const MAX_IDS: usize = 50;

/// Returns the answer to `/me`: the person or the Page that the token belongs to.
pub(super) fn me(simulator: &Simulator, call: &Call) -> Answer {
    let token = call.token()?;
    if let Some(id) = token.page() {
        return page(simulator, call, id);
    }
    let requested = fields::parse(call.parameter("fields").unwrap_or(DEFAULT_FIELDS));
    let unknown = requested
        .iter()
        .find(|field| !["id", "name"].contains(&field.name.as_str()));
    if let Some(field) = unknown {
        return Err(fields::nonexisting(&field.name, "User"));
    }
    let facebook = simulator.facebook();
    let person = facebook.people.get(&token.user);
    let mut object = json!({"id": token.user});
    if requested.iter().any(|field| field.name == "name") {
        object["name"] = json!(person.map(|person| person.name.clone()));
    }
    Ok(object)
}

/// Returns the answer to `/{page}`: a Page, read with its own token or with the token of a person
/// who manages it.
pub(super) fn page(simulator: &Simulator, call: &Call, id: &str) -> Answer {
    let token = call.token()?;
    let view = FieldSelection::of_call(simulator, call, DEFAULT_FIELDS)?;
    let facebook = simulator.facebook();
    let stale_seconds = facebook.graph_faults.stale_read_seconds;
    let page = simulator
        .lock_pages()
        .seen_at(facebook.now(), stale_seconds)
        .find(|page| id_of(page) == Some(id));
    let may_read = token.page().is_none_or(|own| own == id) && facebook.manages(&token.user, id);
    let Some(page) = page.filter(|_| may_read) else {
        return Err(ErrorReply::missing(id));
    };
    if !facebook.allows(&token.user, "pages_read_engagement") {
        let message = "(#100) Object does not exist, cannot be loaded due to missing permission or reviewable feature, or does not support this operation. This endpoint requires the 'pages_read_engagement' permission or the 'Page Public Content Access' feature.";
        return Err(ErrorReply::oauth(100, None, message));
    }
    drop(facebook);
    Ok(Value::Object(page_object(simulator, token, &page, &view)))
}

/// Returns the answer to `/?ids=`: several Pages, read with one token. The whole call fails if one
/// id is invalid.
pub(super) fn several(simulator: &Simulator, call: &Call) -> Answer {
    let ids = call.parameter("ids").unwrap_or_default();
    let ids: Vec<&str> = ids.split(',').collect();
    if ids.len() > MAX_IDS {
        let count = ids.len();
        let message = format!("(#100) Too many IDs. Maximum: {MAX_IDS}. Provided: {count}.");
        return Err(ErrorReply::oauth(100, None, &message));
    }
    let objects: Result<Map<String, Value>, ErrorReply> = ids
        .into_iter()
        .map(|id| Ok((id.to_owned(), page(simulator, call, id)?)))
        .collect();
    objects.map(Value::Object)
}
