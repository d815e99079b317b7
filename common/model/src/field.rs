//! The fields of a Page: which are tracked, how their values compare, and which webhook field
//! announces which of them.
//!
//! Invariant: a [`FieldName`] is a Graph field name; it can never be taken for one of the store's
//! own attributes, which begin with `_`.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::value::Canonical;

/// The Graph name of a Page field: 1 to 64 lower-case letters, digits and `_`, a letter first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldName(String);

impl FieldName {
    /// Takes a text as a field name.
    pub fn parse(text: &str) -> Option<Self> {
        let first = text.bytes().next()?;
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        (text.len() <= 64 && first.is_ascii_lowercase() && text.bytes().all(known))
            .then(|| Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A number that moves every day by itself: kept, but no change of it is history or feed.
    pub fn is_counter(&self) -> bool {
        matches!(
            self.as_str(),
            "fan_count"
                | "followers_count"
                | "talking_about_count"
                | "checkins"
                | "were_here_count"
                | "rating_count"
        )
    }

    /// Whether two values of this field mean the same thing to a person.
    ///
    /// A picture's URL is signed anew at every read, so pictures compare by `cache_key`, else by the
    /// URL's path; category names are localised, so category lists compare by id.
    pub fn same(&self, a: Option<&Canonical>, b: Option<&Canonical>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) if a != b => match self.as_str() {
                "picture" => picture_identity(a).is_some_and(|id| picture_identity(b) == Some(id)),
                "category_list" => category_ids(a).is_some_and(|ids| category_ids(b) == Some(ids)),
                _ => false,
            },
            _ => a == b,
        }
    }
}

fn picture_identity(value: &Canonical) -> Option<String> {
    let json = value.to_json();
    let data = json.get("data").unwrap_or(&json);
    if let Some(key) = data.get("cache_key").and_then(Value::as_str) {
        return Some(key.to_owned());
    }
    let url = data.get("url")?.as_str()?;
    let without_query = url.split(['?', '#']).next()?;
    let path = without_query
        .split_once("://")
        .map_or(without_query, |(_, rest)| rest);
    path.split_once('/').map(|(_host, path)| path.to_owned())
}

fn category_ids(value: &Canonical) -> Option<BTreeSet<String>> {
    let json = value.to_json();
    json.as_array()?
        .iter()
        .map(|item| Some(item.get("id")?.as_str()?.to_owned()))
        .collect()
}

impl TryFrom<String> for FieldName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
            .ok_or_else(|| "a field name is lower-case letters, digits and _".to_owned())
    }
}

impl From<FieldName> for String {
    fn from(name: FieldName) -> Self {
        name.0
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The fields tracked unless the configuration says otherwise.
pub const DEFAULT_TRACKED: [&str; 19] = [
    "about",
    "category",
    "category_list",
    "description",
    "emails",
    "fan_count",
    "followers_count",
    "hours",
    "is_permanently_closed",
    "is_published",
    "link",
    "location",
    "name",
    "phone",
    "picture",
    "single_line_address",
    "username",
    "verification_status",
    "website",
];

/// The set of fields kept for every Page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedFields(BTreeSet<FieldName>);

impl TrackedFields {
    /// Exactly these fields.
    pub fn new(fields: impl IntoIterator<Item = FieldName>) -> Self {
        Self(fields.into_iter().collect())
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &FieldName> {
        self.0.iter()
    }

    /// The webhook fields that announce any of them, in order.
    pub fn webhook_fields(&self) -> Vec<&'static str> {
        let announced = |name: &&str| match announces(name) {
            Some(Announces::Value(field) | Announces::Hint(field)) => {
                self.0.iter().any(|tracked| tracked.as_str() == field)
            }
            None => false,
        };
        WEBHOOK_FIELDS.into_iter().filter(announced).collect()
    }

    /// Whether `field` is kept.
    pub fn contains(&self, field: &FieldName) -> bool {
        self.0.contains(field)
    }
}

impl Default for TrackedFields {
    fn default() -> Self {
        Self::new(
            DEFAULT_TRACKED
                .iter()
                .filter_map(|name| FieldName::parse(name)),
        )
    }
}

/// What a webhook field says about a Page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announces {
    /// The new value of this Graph field comes along.
    Value(&'static str),
    /// This Graph field changed; only a read says to what.
    Hint(&'static str),
}

/// The closed map from webhook fields to Graph fields. `None`: the field says nothing about a Page's
/// profile (a message, a post, a lead) or is unknown.
///
/// Source: Graph API reference "Webhooks Reference: Page", v26. `category` comes with a value, but an
/// enum constant that Graph never answers with, so it counts as a hint.
pub fn announces(webhook_field: &str) -> Option<Announces> {
    use Announces::{Hint, Value};
    Some(match webhook_field {
        "company_overview" => Value("company_overview"),
        "founded" => Value("founded"),
        "general_info" => Value("general_info"),
        "mission" => Value("mission"),
        "name" => Value("name"),
        "products" => Value("products"),
        "affiliation" => Hint("affiliation"),
        "attire" => Hint("attire"),
        "awards" => Hint("awards"),
        "bio" => Hint("bio"),
        "birthday" => Hint("birthday"),
        "category" => Hint("category"),
        "culinary_team" => Hint("culinary_team"),
        "current_location" => Hint("current_location"),
        "description" => Hint("description"),
        "email" => Hint("emails"),
        "general_manager" => Hint("general_manager"),
        "hometown" => Hint("hometown"),
        "hours" => Hint("hours"),
        "location" => Hint("location"),
        "members" => Hint("members"),
        "parking" => Hint("parking"),
        "payment_options" => Hint("payment_options"),
        "personal_info" => Hint("personal_info"),
        "personal_interests" => Hint("personal_interests"),
        "phone" => Hint("phone"),
        "picture" => Hint("picture"),
        "price_range" => Hint("price_range"),
        "public_transit" => Hint("public_transit"),
        "website" => Hint("website"),
        _ => return None,
    })
}

/// Whether Facebook has a webhook for changes of a Graph field.
pub fn is_announceable(field: &FieldName) -> bool {
    WEBHOOK_FIELDS
        .into_iter()
        .filter_map(announces)
        .any(|announced| match announced {
            Announces::Value(name) | Announces::Hint(name) => name == field.as_str(),
        })
}

/// Every webhook field that [`announces`] knows.
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

/// The name under which a webhook field that is not kept is counted: its own if Facebook documents
/// it, else `unknown`, so that a sender cannot make up metrics.
pub fn counted_name(webhook_field: &str) -> &'static str {
    const KNOWN: [&str; 34] = [
        "call_permission_reply",
        "checkins",
        "conversations",
        "feed",
        "follow",
        "group_feed",
        "inbox_labels",
        "leadgen",
        "leadgen_update",
        "live_videos",
        "mention",
        "merchant_review",
        "message_deliveries",
        "message_echoes",
        "message_edits",
        "message_reactions",
        "message_reads",
        "messages",
        "messaging_account_linking",
        "messaging_handovers",
        "messaging_optins",
        "messaging_policy_enforcement",
        "messaging_postbacks",
        "messaging_referrals",
        "page_about_story",
        "page_change_proposal",
        "page_upcoming_change",
        "product_review",
        "ratings",
        "registration",
        "standby",
        "story_share",
        "user_action",
        "videos",
    ];
    KNOWN
        .into_iter()
        .find(|name| *name == webhook_field)
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn same(field: &str, a: &Value, b: &Value) -> bool {
        let field = FieldName::parse(field).unwrap();
        field.same(Canonical::of(a).as_ref(), Canonical::of(b).as_ref())
    }

    #[test]
    fn a_picture_is_the_same_when_only_its_signature_moved() {
        let at = |url: &str| json!({"data": {"url": url, "is_silhouette": false}});
        assert!(same(
            "picture",
            &at("https://a.fbcdn.net/v/1.jpg?oh=1"),
            &at("https://b.fbcdn.net/v/1.jpg?oh=2")
        ));
        assert!(!same(
            "picture",
            &at("https://a.fbcdn.net/v/1.jpg?oh=1"),
            &at("https://a.fbcdn.net/v/2.jpg?oh=1")
        ));
        let keyed = |key: &str, url: &str| json!({"data": {"cache_key": key, "url": url}});
        assert!(same(
            "picture",
            &keyed("k", "https://x/1"),
            &keyed("k", "https://y/2")
        ));
        assert!(!same(
            "picture",
            &keyed("k", "https://x/1"),
            &keyed("l", "https://x/1")
        ));
    }

    #[test]
    fn categories_compare_by_id() {
        let named = |name: &str| json!([{"id": "2265", "name": name}]);
        assert!(same("category_list", &named("Website"), &named("网站")));
        assert!(!same(
            "category_list",
            &named("Website"),
            &json!([{"id": "1", "name": "Website"}])
        ));
    }

    #[test]
    fn what_is_tracked_says_what_to_subscribe_to() {
        assert!(WEBHOOK_FIELDS.iter().all(|name| announces(name).is_some()));
        let tracked = TrackedFields::default().webhook_fields();
        assert!(
            tracked.contains(&"email") && tracked.contains(&"name"),
            "{tracked:?}"
        );
        assert!(!tracked.contains(&"parking"));
    }

    #[test]
    fn a_field_name_cannot_be_an_attribute_of_the_store() {
        for bad in ["", "_version", "Name", "a-b", "!v", "é", &"x".repeat(65)] {
            assert_eq!(FieldName::parse(bad), None, "{bad}");
        }
        assert!(
            DEFAULT_TRACKED
                .iter()
                .all(|name| FieldName::parse(name).is_some())
        );
    }
}
