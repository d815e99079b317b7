//! The edge `/{page}/messages`, with which a Page writes to a person.
//!
//! Source of the errors: Messenger Platform, "Send API" and "error codes".

use serde_json::{Value, json};

use super::call::Call;
use super::refusal::{Answer, ErrorReply};
use crate::conversation::{Author, is_within_window};
use crate::simulator::Simulator;

/// Returns the answer to `POST /{page}/messages`, made with the token of the Page.
pub(super) fn send(simulator: &Simulator, call: &Call, id: &str) -> Answer {
    let token = call.token()?;
    let Some(page) = token.page().filter(|page| id == "me" || id == *page) else {
        let message = "(#190) This method must be called with a Page Access Token";
        return Err(ErrorReply::oauth(190, None, message));
    };
    let mut facebook = simulator.facebook();
    if !facebook.allows(&token.user, "pages_messaging") {
        let message = "(#200) Requires pages_messaging permission to manage the object";
        return Err(ErrorReply::oauth(200, None, message));
    }
    let object = |name: &str| {
        let text = call.parameter(name).unwrap_or_default();
        serde_json::from_str::<Value>(text).unwrap_or_default()
    };
    let (recipient, message) = (object("recipient"), object("message"));
    let (Some(person), Some(text)) = (recipient["id"].as_str(), message["text"].as_str()) else {
        let message = "(#100) Param recipient or message is not of the expected form";
        return Err(ErrorReply::oauth(100, None, message));
    };
    let now = facebook.now();
    let Some(last) = facebook.conversations.last_of_customer(page, person) else {
        let message = "(#100) No matching user found";
        return Err(ErrorReply::oauth(100, Some(2_018_001), message));
    };
    if !is_within_window(last, now) {
        let message = "(#10) This message is sent outside of allowed window.";
        return Err(ErrorReply::oauth(10, Some(2_018_278), message));
    }
    let conversations = &mut facebook.conversations;
    let mid = conversations.add(page, Author::Page, person, text, now);
    Ok(json!({"recipient_id": person, "message_id": mid}))
}
