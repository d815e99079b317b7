//! Converts a Page to an object in an answer.

use serde_json::{Map, Value, json};

use super::fields::FieldSelection;
use crate::facebook::Facebook;
use crate::pages::{Page, id_of};
use crate::simulator::Simulator;
use crate::token::{LONG_LIVED_SECONDS, Token, TokenOwner};

/// The tasks that a person has on every Page they manage.
const TASKS: [&str; 6] = [
    "ADVERTISE",
    "ANALYZE",
    "CREATE_CONTENT",
    "MANAGE",
    "MESSAGING",
    "MODERATE",
];

/// Returns the requested fields of a Page, as the holder of `token` reads them.
pub(super) fn page_object(
    simulator: &Simulator,
    token: &Token,
    page: &Page,
    view: &FieldSelection<'_>,
) -> Map<String, Value> {
    let id = id_of(page).unwrap_or_default();
    let read = simulator.lock_pages().count_read();
    let mut object = view.show(page, read);
    let mut facebook = simulator.facebook();
    if view.includes("tasks") {
        object.insert("tasks".to_owned(), json!(TASKS));
    }
    if view.includes("is_webhooks_subscribed") {
        let is_subscribed = facebook.page_subscriptions.contains_key(id);
        object.insert("is_webhooks_subscribed".to_owned(), json!(is_subscribed));
    }
    let person = facebook.people.get(&token.user);
    let has_token = person.is_some_and(|person| !person.pages_without_token.contains(id));
    if view.includes("access_token") && has_token {
        let text = page_token(&mut facebook, token, id);
        object.insert("access_token".to_owned(), json!(text));
    }
    object
}

/// Returns the text of the Page token that belongs to a person's token. Issues it if there is none.
fn page_token(facebook: &mut Facebook, token: &Token, page: &str) -> String {
    // Page tokens of a long-lived token never expire; those of a short-lived token expire with it.
    let expires = token
        .expires_at
        .filter(|expires| expires.saturating_sub(token.issued_at) < LONG_LIVED_SECONDS);
    let owner = TokenOwner::Page(page.to_owned());
    let existing = facebook.tokens.iter().find(|(_, existing)| {
        existing.owner == owner
            && existing.user == token.user
            && existing.invalid_subcode.is_none()
            && existing.expires_at == expires
    });
    match existing {
        Some((text, _)) => text.clone(),
        None => facebook.issue(owner, &token.user, expires),
    }
}
