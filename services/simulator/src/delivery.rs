//! Deliveries: which change is announced and how, and the habits of the sender.
//!
//! Every choice comes from one seeded generator in one task, so a seed repeats a run as far as the
//! network lets it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::bytes::{escaped, signature_256, signature_sha1};
use crate::{Options, now};

/// Pauses before each repetition of a delivery that was not answered 200. Facebook repeats "at
/// once, then with decreasing frequency over 36 hours"; this is the same shape in five minutes.
const RETRIES: [u64; 9] = [0, 1, 2, 5, 10, 30, 60, 90, 120];
/// Deliveries under way at the same time.
const AT_ONCE: usize = 32;
/// A delivery without an answer after this is a failed one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Facebook puts at most this many updates into one delivery.
const MAX_BATCH: usize = 1000;

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

/// Habits of the sender; each a probability from 0 to 1, but for `include_values`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// A delivery comes twice.
    pub duplicate: f64,
    /// A delivery is held back while later ones pass.
    pub reorder: f64,
    /// Changes that wait together travel together.
    pub batch: f64,
    /// Whether values are sent at all; without, entries carry `changed_fields`.
    pub include_values: bool,
    /// Page ids are numbers, as in some real deliveries.
    pub number_ids: bool,
    /// Times are in milliseconds, as in some real deliveries.
    pub millisecond_times: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
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
    page: String,
    field: &'static str,
    value: Option<Value>,
    time: u64,
    /// Where it goes, and whether with values: as the app was subscribed when it happened.
    target: (String, bool),
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
    sent: AtomicU64,
    accepted: AtomicU64,
    moved: Notify,
}

impl Tally {
    pub(crate) fn expect(&self) {
        self.events.fetch_add(1, Ordering::SeqCst);
    }

    fn settle(&self, events: usize) {
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
fn entry(events: &[Event], faults: Faults) -> Value {
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

/// Sends what happens.
pub(crate) struct Sender {
    post: Arc<Post>,
    faults: Arc<Mutex<Faults>>,
    chance: fastrand::Rng,
    held_back: VecDeque<(String, String, usize)>,
}

struct Post {
    client: reqwest::Client,
    app_secret: String,
    room: Semaphore,
    tally: Arc<Tally>,
}

impl Sender {
    pub(crate) fn new(options: &Options, faults: Arc<Mutex<Faults>>, tally: Arc<Tally>) -> Self {
        let post = Post {
            client: reqwest::Client::new(),
            app_secret: options.app.secret.clone(),
            room: Semaphore::new(AT_ONCE),
            tally,
        };
        let chance = fastrand::Rng::with_seed(options.seed);
        Self {
            post: Arc::new(post),
            faults,
            chance,
            held_back: VecDeque::new(),
        }
    }

    pub(crate) async fn run(mut self, mut arriving: mpsc::UnboundedReceiver<Event>) {
        while let Some(first) = arriving.recv().await {
            let faults = *self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            let mut events = vec![first];
            // The callback changes only when the app is subscribed anew: then nothing is waiting.
            while events.len() < MAX_BATCH && self.chance.f64() < faults.batch {
                let Ok(next) = arriving.try_recv() else { break };
                events.push(next);
            }
            let entries: Vec<Value> = events
                .chunk_by(|a, b| a.page == b.page && a.time == b.time)
                .map(|together| entry(together, faults))
                .collect();
            let callback = events[0].target.0.clone();
            let delivery = (callback, body(&entries), events.len());
            if self.chance.f64() < faults.duplicate {
                let (callback, body, _) = delivery.clone();
                self.post.clone().send((callback, body, 0));
            }
            if self.chance.f64() < faults.reorder && !arriving.is_empty() {
                self.held_back.push_back(delivery);
                continue;
            }
            self.post.clone().send(delivery);
            while let Some(late) = self.held_back.pop_front() {
                self.post.clone().send(late);
            }
        }
    }
}

impl Post {
    fn send(self: Arc<Self>, (callback, body, events): (String, String, usize)) {
        tokio::spawn(async move {
            let Ok(_place) = self.room.acquire().await else {
                return;
            };
            for pause in RETRIES {
                tokio::time::sleep(Duration::from_secs(pause)).await;
                if self.post(&callback, &body).await {
                    break;
                }
            }
            self.tally.settle(events);
        });
    }

    /// One attempt; only 200 counts.
    async fn post(&self, callback: &str, body: &str) -> bool {
        self.tally.sent.fetch_add(1, Ordering::SeqCst);
        let request = self
            .client
            .post(callback)
            .timeout(PATIENCE)
            .header("accept", "*/*")
            .header("content-type", "application/json")
            .header("facebook-api-version", "v25.0")
            .header("user-agent", "facebookexternalua")
            .header(
                "x-hub-signature",
                signature_sha1(&self.app_secret, body.as_bytes()),
            )
            .header(
                "x-hub-signature-256",
                signature_256(&self.app_secret, body.as_bytes()),
            )
            .body(body.to_owned());
        let accepted = match request.send().await {
            Ok(answer) => answer.status() == reqwest::StatusCode::OK,
            Err(error) => {
                tracing::debug!(error = %error.without_url(), "a delivery failed");
                false
            }
        };
        self.tally
            .accepted
            .fetch_add(u64::from(accepted), Ordering::SeqCst);
        accepted
    }
}

/// A delivery of one change, sent now: for tests and load that need bodies of their own.
pub fn change_now(page: &str, field: &str, value: &str) -> String {
    body(&[json!({"id": page, "time": now(), "changes": [{"field": field, "value": value}]})])
}
