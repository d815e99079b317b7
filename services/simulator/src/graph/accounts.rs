//! The edges that list the Pages of a person: `/me/accounts`, and `/me/businesses` with the Pages of
//! each business portfolio.

use serde_json::{Value, json};

use super::call::Call;
use super::fields::{self, FieldSelection};
use super::lists::result_page;
use super::page_object::page_object;
use super::refusal::{Answer, ErrorReply};
use crate::pages::{Page, id_of};
use crate::people::Person;
use crate::simulator::Simulator;
use crate::token::{Token, TokenOwner};

/// The fields of the entries of a call that names no fields.
const DEFAULT_FIELDS: &str = "access_token,category,category_list,name,id,tasks";

/// Returns a result page of the Pages on which the person of the token has a role of their own and
/// which they selected in the dialog.
pub(super) fn accounts(simulator: &Simulator, call: &Call) -> Answer {
    let token = call.token()?;
    let has_role = |person: &Person, id: &str| person.has_role(id);
    list_pages(simulator, call, token, has_role)
}

/// Returns a result page of the business portfolios in which the person of the token has a role.
pub(super) fn businesses(simulator: &Simulator, call: &Call) -> Answer {
    let token = call.token()?;
    check_business_permission(simulator, token)?;
    let person = simulator.facebook().people.get(&token.user).cloned();
    let portfolios = person.map(|person| person.portfolios).unwrap_or_default();
    result_page(
        simulator,
        call,
        &portfolios,
        |portfolio| json!({"id": portfolio.id, "name": portfolio.name}),
    )
}

/// Returns a result page of the Pages of a business portfolio: those that it owns, or with `of_clients`
/// those that it manages for others.
pub(super) fn portfolio_pages(
    simulator: &Simulator,
    call: &Call,
    id: &str,
    of_clients: bool,
) -> Answer {
    let token = call.token()?;
    check_business_permission(simulator, token)?;
    let person = simulator.facebook().people.get(&token.user).cloned();
    let mut portfolios = person
        .into_iter()
        .flat_map(|person| person.portfolios.into_iter());
    let Some(portfolio) = portfolios.find(|portfolio| portfolio.id == id) else {
        return Err(ErrorReply::missing(id));
    };
    let pages = if of_clients {
        portfolio.client
    } else {
        portfolio.owned
    };
    list_pages(simulator, call, token, |_, id| pages.contains(id))
}

/// Fails unless the person of a token granted `business_management`.
fn check_business_permission(simulator: &Simulator, token: &Token) -> Result<(), ErrorReply> {
    if simulator
        .facebook()
        .allows(&token.user, "business_management")
    {
        return Ok(());
    }
    let message = "(#200) Requires business_management permission to manage the object";
    Err(ErrorReply::new(403, "OAuthException", 200, None, message))
}

/// Returns a result page of the Pages that `includes` returns `true` for.
fn list_pages(
    simulator: &Simulator,
    call: &Call,
    token: &Token,
    includes: impl Fn(&Person, &str) -> bool,
) -> Answer {
    if token.owner != TokenOwner::User {
        return Err(fields::nonexisting("accounts", "Page"));
    }
    let view = FieldSelection::of_call(simulator, call, DEFAULT_FIELDS)?;
    let pages = listed_pages(simulator, token, includes);
    result_page(simulator, call, &pages, |page| {
        Value::Object(page_object(simulator, token, page, &view))
    })
}

/// Returns every Page in a list of a person's token.
fn listed_pages(
    simulator: &Simulator,
    token: &Token,
    includes: impl Fn(&Person, &str) -> bool,
) -> Vec<Page> {
    let facebook = simulator.facebook();
    let Some(person) = facebook.people.get(&token.user) else {
        return Vec::new();
    };
    if !facebook.allows(&token.user, "pages_show_list") {
        return Vec::new();
    }
    let business = facebook.allows(&token.user, "business_management");
    let stale_seconds = facebook.graph_faults.stale_read_seconds;
    let is_listed = |id: &str| includes(person, id) && person.has_selected(id);
    simulator
        .lock_pages()
        .seen_at(facebook.now(), stale_seconds)
        .filter(|page| id_of(page).is_some_and(is_listed))
        .filter(|page| business || !page.contains_key("owner_business"))
        .collect()
}
