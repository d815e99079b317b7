//! The webhook fields of Pages and their meanings.
//!
//! Invariant: the table `WEBHOOK_FIELDS` is the only list of webhook fields. It determines which
//! changes are accepted, which fields are subscribed, and which labels metrics have.
//!
//! Source: Graph API reference "Webhooks Reference: Page", v26. `category` carries a value, but the
//! value is an enum constant that Graph never returns, so the table has
//! [`FieldMeaning::ChangedWithoutValue`] for it.

use crate::field::{FieldName, TrackedFields};

/// The meaning of a webhook field for a Page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldMeaning {
    /// This Graph field changed, and the webhook carries its new value.
    ChangedWithValue(&'static str),
    /// This Graph field changed, and only a read returns its new value.
    ChangedWithoutValue(&'static str),
    /// The webhook is not about the profile of the Page but about a message or a post, for example.
    NotProfile,
}

use FieldMeaning::{ChangedWithValue, ChangedWithoutValue, NotProfile};

/// Every webhook field that Facebook documents for Pages, with its meaning.
const WEBHOOK_FIELDS: [(&str, FieldMeaning); 65] = [
    ("affiliation", ChangedWithoutValue("affiliation")),
    ("attire", ChangedWithoutValue("attire")),
    ("awards", ChangedWithoutValue("awards")),
    ("bio", ChangedWithoutValue("bio")),
    ("birthday", ChangedWithoutValue("birthday")),
    ("category", ChangedWithoutValue("category")),
    ("company_overview", ChangedWithValue("company_overview")),
    ("culinary_team", ChangedWithoutValue("culinary_team")),
    ("current_location", ChangedWithoutValue("current_location")),
    ("description", ChangedWithoutValue("description")),
    ("email", ChangedWithoutValue("emails")),
    ("founded", ChangedWithValue("founded")),
    ("general_info", ChangedWithValue("general_info")),
    ("general_manager", ChangedWithoutValue("general_manager")),
    ("hometown", ChangedWithoutValue("hometown")),
    ("hours", ChangedWithoutValue("hours")),
    ("location", ChangedWithoutValue("location")),
    ("members", ChangedWithoutValue("members")),
    ("mission", ChangedWithValue("mission")),
    ("name", ChangedWithValue("name")),
    ("parking", ChangedWithoutValue("parking")),
    ("payment_options", ChangedWithoutValue("payment_options")),
    ("personal_info", ChangedWithoutValue("personal_info")),
    (
        "personal_interests",
        ChangedWithoutValue("personal_interests"),
    ),
    ("phone", ChangedWithoutValue("phone")),
    ("picture", ChangedWithoutValue("picture")),
    ("price_range", ChangedWithoutValue("price_range")),
    ("products", ChangedWithValue("products")),
    ("public_transit", ChangedWithoutValue("public_transit")),
    ("website", ChangedWithoutValue("website")),
    ("business_integrity", NotProfile),
    ("call_permission_reply", NotProfile),
    ("checkins", NotProfile),
    ("conversations", NotProfile),
    ("feed", NotProfile),
    ("follow", NotProfile),
    ("group_feed", NotProfile),
    ("inbox_labels", NotProfile),
    ("leadgen", NotProfile),
    ("leadgen_update", NotProfile),
    ("live_videos", NotProfile),
    ("mention", NotProfile),
    ("merchant_review", NotProfile),
    ("message_deliveries", NotProfile),
    ("message_echoes", NotProfile),
    ("message_edits", NotProfile),
    ("message_reactions", NotProfile),
    ("message_reads", NotProfile),
    ("messages", NotProfile),
    ("messaging_account_linking", NotProfile),
    ("messaging_handovers", NotProfile),
    ("messaging_optins", NotProfile),
    ("messaging_policy_enforcement", NotProfile),
    ("messaging_postbacks", NotProfile),
    ("messaging_referrals", NotProfile),
    ("page_about_story", NotProfile),
    ("page_change_proposal", NotProfile),
    ("page_upcoming_change", NotProfile),
    ("product_review", NotProfile),
    ("ratings", NotProfile),
    ("registration", NotProfile),
    ("standby", NotProfile),
    ("story_share", NotProfile),
    ("user_action", NotProfile),
    ("videos", NotProfile),
];

/// Returns the row of `webhook_field`, or `None` if Facebook does not document it.
fn find(webhook_field: &str) -> Option<(&'static str, FieldMeaning)> {
    WEBHOOK_FIELDS
        .into_iter()
        .find(|(name, _)| *name == webhook_field)
}

/// Returns the meaning of `webhook_field`, or [`FieldMeaning::NotProfile`] if Facebook does not
/// document the field.
pub fn meaning_of(webhook_field: &str) -> FieldMeaning {
    find(webhook_field).map_or(NotProfile, |(_, meaning)| meaning)
}

impl FieldMeaning {
    /// Returns the Graph field that changed, or `None` for [`FieldMeaning::NotProfile`].
    pub fn graph_field(self) -> Option<&'static str> {
        match self {
            ChangedWithValue(field) | ChangedWithoutValue(field) => Some(field),
            NotProfile => None,
        }
    }
}

/// Returns whether Facebook has a webhook for changes of `field`.
pub fn has_webhook(field: &FieldName) -> bool {
    WEBHOOK_FIELDS
        .iter()
        .any(|(_, meaning)| meaning.graph_field() == Some(field.as_str()))
}

/// Returns the webhook fields that announce any of `tracked`, in alphabetical order.
pub fn webhook_fields(tracked: &TrackedFields) -> Vec<&'static str> {
    let is_tracked = |meaning: FieldMeaning| {
        let field = meaning.graph_field();
        field.is_some_and(|field| tracked.iter().any(|name| name.as_str() == field))
    };
    let subscribed = WEBHOOK_FIELDS
        .into_iter()
        .filter(|(_, meaning)| is_tracked(*meaning));
    subscribed.map(|(name, _)| name).collect()
}

/// Returns those of the webhook fields `names` that are not about the profile of a Page. pagesync counts
/// and drops their webhooks, such as messages.
pub fn unhandled_fields(names: &[String]) -> Vec<&str> {
    let names = names.iter().map(String::as_str);
    names
        .filter(|name| meaning_of(name) == NotProfile)
        .collect()
}

/// Returns the name under which metrics count `webhook_field`: its own name if Facebook documents
/// the field, else `unknown`, so that a sender cannot create metrics.
pub fn metric_label(webhook_field: &str) -> &'static str {
    find(webhook_field).map_or("unknown", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tracked_fields_decide_which_webhook_fields_are_subscribed() {
        let fields = webhook_fields(&TrackedFields::default());
        assert!(
            fields.contains(&"email") && fields.contains(&"name"),
            "{fields:?}"
        );
        assert!(!fields.contains(&"parking"));
    }

    #[test]
    fn every_webhook_field_that_announces_a_graph_field_is_subscribed_when_that_field_is_tracked() {
        for (name, meaning) in WEBHOOK_FIELDS {
            let Some(field) = meaning.graph_field() else {
                continue;
            };
            let tracked = TrackedFields::parse(field).unwrap();
            assert_eq!(webhook_fields(&tracked), [name]);
            assert!(has_webhook(&FieldName::parse(field).unwrap()));
        }
    }

    #[test]
    fn no_webhook_field_has_two_rows() {
        let mut names: Vec<&str> = WEBHOOK_FIELDS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), WEBHOOK_FIELDS.len());
    }

    #[test]
    fn an_undocumented_webhook_field_is_counted_as_unknown() {
        assert_eq!(metric_label("messages"), "messages");
        assert_eq!(metric_label("phone"), "phone");
        assert_eq!(metric_label("made_up"), "unknown");
        assert_eq!(meaning_of("made_up"), NotProfile);
    }
}
