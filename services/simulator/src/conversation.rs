//! Conversations between customers and Pages on Messenger.
//!
//! Invariant: a Page can write only to a person who wrote to it within the last 24 hours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How long after the message of a person a Page can answer, in seconds. Source: Messenger Platform,
/// "standard messaging window".
const WINDOW_SECONDS: u64 = 24 * 3600;

/// A message that a customer writes to a Page.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomerMessage {
    /// The id of the person, by which only this Page knows them.
    pub from: String,
    /// The text.
    pub text: String,
}

/// The side that wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    /// The person.
    Customer,
    /// The Page.
    Page,
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The id of the message.
    pub mid: String,
    /// Who wrote it.
    pub author: Author,
    /// The person on the other side of the Page.
    pub person: String,
    /// The text.
    pub text: String,
    /// When it was written, in UNIX seconds of the simulated clock.
    pub time: u64,
}

/// The conversations of all Pages.
#[derive(Debug, Default)]
pub struct Conversations {
    messages: BTreeMap<String, Vec<Message>>,
    count: u64,
}

impl Conversations {
    /// Adds a message to the conversation of a Page. Returns the id of the message.
    pub fn add(
        &mut self,
        page: &str,
        author: Author,
        person: &str,
        text: &str,
        time: u64,
    ) -> String {
        self.count += 1;
        let mid = format!("m_{:08}", self.count);
        let messages = self.messages.entry(page.to_owned()).or_default();
        messages.push(Message {
            mid: mid.clone(),
            author,
            person: person.to_owned(),
            text: text.to_owned(),
            time,
        });
        mid
    }

    /// Returns the messages of a Page in the order in which they were written.
    pub fn of_page(&self, page: &str) -> &[Message] {
        self.messages.get(page).map_or(&[], Vec::as_slice)
    }

    /// Returns when a person last wrote to a Page; `None` if they never did.
    pub fn last_of_customer(&self, page: &str, person: &str) -> Option<u64> {
        let mut messages = self.of_page(page).iter().rev();
        let last =
            messages.find(|message| message.author == Author::Customer && message.person == person);
        last.map(|message| message.time)
    }
}

/// Returns whether a Page can write now to a person who last wrote at `last`.
pub fn is_within_window(last: u64, now: u64) -> bool {
    now < last + WINDOW_SECONDS
}

/// Returns the member of `messaging` for a message of a person.
pub(crate) fn messaging(page: &str, person: &str, mid: &str, text: &str, time: u64) -> Value {
    json!({
        "sender": {"id": person},
        "recipient": {"id": page},
        "timestamp": time * 1000,
        "message": {"mid": mid, "text": text},
    })
}
