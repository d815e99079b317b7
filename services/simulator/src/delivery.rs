//! Deliveries: which change is announced and how, the habits of the sender, how it went.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::bytes::escaped;
use crate::now;

/// Webhook fields of a Page's profile. Source: "Webhooks Reference: Page", v26.
pub const WEBHOOK_FIELDS: [&str; 30] = [
    "affiliation",
    "attire",
    "awards",
    "bio",
    "birthday",
    "category",
    "company_overview",
    "culinary_team",
    "current_location",
    "description",
    "email",
    "founded",
    "general_info",
    "general_manager",
    "hometown",
    "hours",
    "location",
    "members",
    "mission",
    "name",
    "parking",
    "payment_options",
    "personal_info",
    "personal_interests",
    "phone",
    "picture",
    "price_range",
    "products",
    "public_transit",
    "website",
];

/// Habits of the sender; the first four are probabilities from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a knob of its own")]
pub struct Faults {
    /// The notice of a change is never sent.
    pub loss: f64,
    /// A delivery comes twice.
    pub duplicate: f64,
    /// A delivery is held back while later ones pass.
    pub reorder: f64,
    /// Changes that wait together travel together.
    pub batch: f64,
    /// Every delivery begins so many seconds late.
    pub delay_seconds: u64,
    /// Deliveries wait until this is false again: a backlog.
    pub hold: bool,
    /// Seconds of failed deliveries, by this Facebook's clock, after which the app is taken off a Page;
    /// `null`: never. Messenger does it after an hour.
    pub unsubscribe_after_seconds: Option<u64>,
    /// How much faster than in five minutes a failed delivery is repeated.
    pub hurry: f64,
    /// Whether values are sent at all; without, entries carry `changed_fields`.
    pub include_values: bool,
    /// Page ids are numbers, as in some real deliveries.
    pub number_ids: bool,
    /// Times are in milliseconds, as in some real deliveries.
    pub millisecond_times: bool,
}

impl Faults {
    /// Whether each probability is one.
    pub fn check(&self) -> Result<(), String> {
        let chances = [
            ("loss", self.loss),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
            ("batch", self.batch),
        ];
        let odd = chances
            .iter()
            .find(|(_, chance)| !(0.0..=1.0).contains(chance));
        odd.map_or(Ok(()), |(name, _)| {
            Err(format!("{name} is a probability, from 0 to 1"))
        })
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loss: 0.0,
            delay_seconds: 0,
            hold: false,
            unsubscribe_after_seconds: None,
            hurry: 1.0,
            duplicate: 0.0,
            reorder: 0.0,
            batch: 0.5,
            include_values: true,
            number_ids: false,
            millisecond_times: false,
        }
    }
}

/// One announced change.
#[derive(Debug, Clone)]
pub struct Event {
    pub(crate) page: String,
    pub(crate) field: &'static str,
    value: Option<Value>,
    pub(crate) time: u64,
    /// Where it goes, and whether with values: as the app was subscribed when it happened.
    pub(crate) target: (String, bool),
}

impl Event {
    /// The webhook that a change of a Graph field causes; `None`: there is none for it.
    ///
    /// Source: "Webhooks Reference: Page", v26: which fields exist, and that most of them carry no
    /// value.
    pub fn of(page: &str, graph_field: &str, value: Value, time: u64) -> Option<Self> {
        let (field, carries_value) = match graph_field {
            "name" => ("name", true),
            "category" => ("category", true),
            "company_overview" => ("company_overview", true),
            "founded" => ("founded", true),
            "general_info" => ("general_info", true),
            "mission" => ("mission", true),
            "products" => ("products", true),
            "emails" => ("email", false),
            "description" => ("description", false),
            "hours" => ("hours", false),
            "location" => ("location", false),
            "parking" => ("parking", false),
            "phone" => ("phone", false),
            "picture" => ("picture", false),
            "price_range" => ("price_range", false),
            "website" => ("website", false),
            _ => return None,
        };
        let value = match field {
            // Webhooks name categories by constants, Graph by words.
            "category" => Some(Value::String(
                value
                    .as_str()
                    .unwrap_or_default()
                    .to_uppercase()
                    .replace([' ', '/'], "_"),
            )),
            _ => carries_value
                .then_some(value)
                .filter(|value| !value.is_null()),
        };
        Some(Self {
            page: page.to_owned(),
            field,
            value,
            time,
            target: (String::new(), true),
        })
    }

    /// Its webhook field.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// The same, on its way to a callback, with its value or without.
    #[must_use]
    pub fn to(self, target: (String, bool)) -> Self {
        Self { target, ..self }
    }
}

/// How deliveries went.
#[derive(Debug, Default)]
pub struct Tally {
    events: AtomicU64,
    settled: AtomicU64,
    lost: AtomicU64,
    /// Events that wait in a backlog.
    pub(crate) held: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) accepted: AtomicU64,
    moved: Notify,
}

impl Tally {
    pub(crate) fn expect(&self) {
        self.events.fetch_add(1, Ordering::SeqCst);
    }

    /// One event that is never sent.
    pub(crate) fn lose(&self) {
        self.lost.fetch_add(1, Ordering::SeqCst);
        self.settle(1);
    }

    /// How many events wait in a backlog.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::SeqCst)
    }

    /// How many events were never sent.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    pub(crate) fn settle(&self, events: usize) {
        self.settled.fetch_add(events as u64, Ordering::SeqCst);
        self.moved.notify_waiters();
    }

    /// Waits until every event so far was accepted or given up.
    pub async fn settled(&self) {
        loop {
            let moved = self.moved.notified();
            if self.settled.load(Ordering::SeqCst) >= self.events.load(Ordering::SeqCst) {
                return;
            }
            moved.await;
        }
    }

    /// The numbers in a sentence.
    pub fn sentence(&self) -> String {
        let load = |n: &AtomicU64| n.load(Ordering::SeqCst);
        let (events, sent, accepted) = (load(&self.events), load(&self.sent), load(&self.accepted));
        format!("{events} changes announced in {sent} deliveries, {accepted} of them answered 200")
    }

    /// The numbers.
    pub fn json(&self) -> Value {
        let load = |n: &AtomicU64| n.load(Ordering::SeqCst);
        json!({
            "events": load(&self.events),
            "settled": load(&self.settled),
            "lost": load(&self.lost),
            "held": load(&self.held),
            "sent": load(&self.sent),
            "accepted": load(&self.accepted),
        })
    }
}

/// A delivery body for entries, in Facebook's bytes.
pub fn body(entries: &[Value]) -> String {
    escaped(&json!({"object": "page", "entry": entries}))
}

/// The entry of some changes of one Page that are announced together.
pub(crate) fn entry(events: &[Event], faults: Faults) -> Value {
    let first = &events[0];
    let page = match first.page.parse::<u64>() {
        Ok(number) if faults.number_ids => json!(number),
        _ => json!(first.page),
    };
    let time = if faults.millisecond_times {
        first.time * 1000
    } else {
        first.time
    };
    if !(faults.include_values && first.target.1) {
        let fields: Vec<&str> = events.iter().map(|event| event.field).collect();
        return json!({"id": page, "time": time, "changed_fields": fields});
    }
    let change = |event: &Event| match &event.value {
        Some(value) => json!({"field": event.field, "value": value}),
        None => json!({"field": event.field}),
    };
    json!({"id": page, "time": time, "changes": events.iter().map(change).collect::<Vec<_>>()})
}

/// A delivery of one change, sent now: for tests and load that need bodies of their own.
pub fn change_now(page: &str, field: &str, value: &str) -> String {
    body(&[json!({"id": page, "time": now(), "changes": [{"field": field, "value": value}]})])
}
