//! Events (changes that webhooks report), the bodies of deliveries, and the delivery faults.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bytes::escaped_json;
use crate::clock::unix_now;
use crate::facebook::WebhookTarget;
use crate::simulator_error::SimulatorError;
use crate::webhook_fields;

/// The faults and variations of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent setting"
)]
pub struct DeliveryFaults {
    /// The probability, from 0 to 1, that a change is never reported.
    pub loss: f64,
    /// The probability, from 0 to 1, that a delivery is sent twice.
    pub duplicate: f64,
    /// The probability, from 0 to 1, that a delivery is sent after later ones.
    pub reorder: f64,
    /// The probability, from 0 to 1, that a waiting change is added to the delivery of the previous
    /// change.
    pub batch: f64,
    /// The delay of every delivery, in seconds.
    pub delay_seconds: u64,
    /// Whether deliveries are held back. They are sent once this is false again.
    pub hold: bool,
    /// After how many seconds of failed deliveries, by the simulated clock, the subscription of a
    /// Page is removed; `None` for never. Messenger removes it after an hour.
    pub unsubscribe_after_seconds: Option<u64>,
    /// The factor by which the delays between attempts are shortened.
    pub retry_speed: f64,
    /// Whether values are sent. Otherwise entries carry `changed_fields`.
    pub include_values: bool,
    /// Whether Page ids are numbers, as in some real deliveries.
    pub number_ids: bool,
    /// Whether times are in milliseconds, as in some real deliveries.
    pub millisecond_times: bool,
}

impl DeliveryFaults {
    /// Fails if a probability is not from 0 to 1.
    pub fn check(&self) -> Result<(), SimulatorError> {
        let probabilities = [
            ("loss", self.loss),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
            ("batch", self.batch),
        ];
        let invalid = probabilities
            .iter()
            .find(|(_, probability)| !(0.0..=1.0).contains(probability));
        match invalid {
            None => Ok(()),
            Some((name, _)) => Err(SimulatorError::InvalidProbability(name)),
        }
    }
}

impl Default for DeliveryFaults {
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            batch: 0.5,
            delay_seconds: 0,
            hold: false,
            unsubscribe_after_seconds: None,
            retry_speed: 1.0,
            include_values: true,
            number_ids: false,
            millisecond_times: false,
        }
    }
}

/// An event: a change of a Page that a webhook reports.
#[derive(Debug, Clone)]
pub struct ReportedChange {
    pub(crate) page: String,
    field: &'static str,
    value: Option<Value>,
    /// The member of `messaging`, if the event is a message.
    messaging: Option<Value>,
    pub(crate) time: u64,
    /// The target at the time of the change; empty until [`ReportedChange::with_target`] sets it.
    pub(crate) target: WebhookTarget,
}

impl ReportedChange {
    /// Returns the event for a change of a Graph field, or `None` if no webhook reports the field.
    pub fn for_change(page: &str, graph_field: &str, value: Value, time: u64) -> Option<Self> {
        let field = webhook_fields::for_graph_field(graph_field)?;
        let value = if field.name == "category" {
            Some(category_constant(&value))
        } else {
            Some(value).filter(|value| field.carries_value && !value.is_null())
        };
        Some(Self {
            page: page.to_owned(),
            field: field.name,
            value,
            messaging: None,
            time,
            target: WebhookTarget::default(),
        })
    }

    /// Returns the event for a message of a person to a Page.
    pub(crate) fn for_message(page: &str, messaging: Value, time: u64) -> Self {
        Self {
            page: page.to_owned(),
            field: "messages",
            value: None,
            messaging: Some(messaging),
            time,
            target: WebhookTarget::default(),
        }
    }

    /// Returns the webhook field of the event.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// Returns the event with the target that it is delivered to.
    #[must_use]
    pub fn with_target(self, target: WebhookTarget) -> Self {
        Self { target, ..self }
    }
}

/// Returns a category in the form of webhooks, such as `COFFEE_SHOP` for `Coffee shop`.
fn category_constant(category: &Value) -> Value {
    let words = category.as_str().unwrap_or_default();
    Value::String(words.to_uppercase().replace([' ', '/'], "_"))
}

/// Returns the body of a delivery with these webhook entries, exactly as Facebook writes it.
pub fn delivery_body(entries: &[Value]) -> String {
    escaped_json(&json!({"object": "page", "entry": entries}))
}

/// Returns whether two events are reported in the same entry. An entry has one message, or changes of one
/// Page and time.
pub(crate) fn share_entry(a: &ReportedChange, b: &ReportedChange) -> bool {
    a.page == b.page && a.time == b.time && a.messaging.is_none() && b.messaging.is_none()
}

/// Returns one webhook entry for events that share it.
pub(crate) fn entry_for_events(events: &[ReportedChange], faults: DeliveryFaults) -> Value {
    let first = &events[0];
    if let Some(messaging) = &first.messaging {
        // Facebook writes the time of messages in milliseconds.
        return json!({"id": first.page, "time": first.time * 1000, "messaging": [messaging]});
    }
    let page = match first.page.parse::<u64>() {
        Ok(number) if faults.number_ids => json!(number),
        _ => json!(first.page),
    };
    let time = if faults.millisecond_times {
        first.time * 1000
    } else {
        first.time
    };
    if !(faults.include_values && first.target.include_values) {
        let fields: Vec<&str> = events.iter().map(ReportedChange::field).collect();
        return json!({"id": page, "time": time, "changed_fields": fields});
    }
    let change = |event: &ReportedChange| match &event.value {
        Some(value) => json!({"field": event.field, "value": value}),
        None => json!({"field": event.field}),
    };
    json!({"id": page, "time": time, "changes": events.iter().map(change).collect::<Vec<_>>()})
}

/// Returns the body of a delivery with one change, at the present time of this host's clock. It is
/// for tests that send their own deliveries.
pub fn single_change_body(page: &str, field: &str, value: &str) -> String {
    let change = json!({"field": field, "value": value});
    delivery_body(&[json!({"id": page, "time": unix_now(), "changes": [change]})])
}
