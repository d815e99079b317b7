//! The table of webhook fields of a Page's profile.
//!
//! Invariant: [`WEBHOOK_FIELDS`] determines both the profile fields that an app can subscribe to
//! and the webhooks that changes cause.
//!
//! Source of the names and of the fields that carry values: "Webhooks Reference: Page", v26.

/// A webhook field of a Page's profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookField {
    /// The name of the field in webhooks and subscriptions.
    pub name: &'static str,
    /// The Graph field whose changes cause the webhook; `None` if the simulator sends no webhook
    /// for this field.
    pub graph_field: Option<&'static str>,
    /// Whether the webhook carries the new value.
    pub carries_value: bool,
}

/// Returns a webhook field that carries the new value of its Graph field.
const fn with_value(name: &'static str, graph_field: &'static str) -> WebhookField {
    WebhookField {
        name,
        graph_field: Some(graph_field),
        carries_value: true,
    }
}

/// Returns a webhook field that reports a change of its Graph field without the value.
const fn without_value(name: &'static str, graph_field: &'static str) -> WebhookField {
    WebhookField {
        name,
        graph_field: Some(graph_field),
        carries_value: false,
    }
}

/// Returns a webhook field that can be subscribed to, but for which the simulator sends no webhook.
const fn never_sent(name: &'static str) -> WebhookField {
    WebhookField {
        name,
        graph_field: None,
        carries_value: false,
    }
}

/// Every webhook field of a Page's profile.
pub const WEBHOOK_FIELDS: [WebhookField; 30] = [
    never_sent("affiliation"),
    never_sent("attire"),
    never_sent("awards"),
    never_sent("bio"),
    never_sent("birthday"),
    with_value("category", "category"),
    with_value("company_overview", "company_overview"),
    never_sent("culinary_team"),
    never_sent("current_location"),
    without_value("description", "description"),
    without_value("email", "emails"),
    with_value("founded", "founded"),
    with_value("general_info", "general_info"),
    never_sent("general_manager"),
    never_sent("hometown"),
    without_value("hours", "hours"),
    without_value("location", "location"),
    never_sent("members"),
    with_value("mission", "mission"),
    with_value("name", "name"),
    without_value("parking", "parking"),
    never_sent("payment_options"),
    never_sent("personal_info"),
    never_sent("personal_interests"),
    without_value("phone", "phone"),
    without_value("picture", "picture"),
    without_value("price_range", "price_range"),
    with_value("products", "products"),
    never_sent("public_transit"),
    without_value("website", "website"),
];

/// Returns the names of all webhook fields.
pub fn names() -> impl Iterator<Item = &'static str> {
    WEBHOOK_FIELDS.iter().map(|field| field.name)
}

/// Returns the webhook field that a change of a Graph field causes, or `None` if there is none.
pub fn for_graph_field(graph_field: &str) -> Option<&'static WebhookField> {
    WEBHOOK_FIELDS
        .iter()
        .find(|field| field.graph_field == Some(graph_field))
}
