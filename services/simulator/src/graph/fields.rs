//! The `fields` parameter: which names exist, which subfields are wanted, and how a Page looks
//! through it. Source: Graph API reference "Page", v25.

use serde_json::{Map, Value, json};

use super::Refusal;
use crate::world::Page;

/// Fields of a Page that Graph knows; all others fail the whole call.
const PAGE: [&str; 78] = [
    "id",
    "name",
    "category",
    "category_list",
    "about",
    "description",
    "website",
    "link",
    "username",
    "phone",
    "emails",
    "single_line_address",
    "location",
    "hours",
    "picture",
    "fan_count",
    "followers_count",
    "verification_status",
    "is_published",
    "is_permanently_closed",
    "is_webhooks_subscribed",
    "access_token",
    "tasks",
    "is_always_open",
    "temporary_status",
    "overall_star_rating",
    "rating_count",
    "were_here_count",
    "checkins",
    "talking_about_count",
    "cover",
    "price_range",
    "payment_options",
    "parking",
    "mission",
    "products",
    "founded",
    "general_info",
    "company_overview",
    "personal_info",
    "bio",
    "birthday",
    "awards",
    "culinary_team",
    "general_manager",
    "hometown",
    "current_location",
    "attire",
    "public_transit",
    "members",
    "affiliation",
    "has_transitioned_to_new_page_experience",
    "owner_business",
    "impressum",
    "contact_address",
    "whatsapp_number",
    "instagram_business_account",
    "parent_page",
    "store_number",
    "has_lead_access",
    "is_owned",
    "can_post",
    "promotion_eligible",
    "keywords",
    "name_with_location_descriptor",
    "unread_message_count",
    "unread_notif_count",
    "unseen_message_count",
    "new_like_count",
    "features",
    "genre",
    "network",
    "plot_outline",
    "press_contact",
    "season",
    "starring",
    "studio",
    "written_by",
];

/// One field that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) name: String,
    /// What stands in its braces.
    pub(super) inner: Vec<String>,
}

/// Splits at commas outside of braces and brackets.
pub(super) fn parse(text: &str) -> Vec<Asked> {
    let (mut depth, mut start, mut parts) = (0_usize, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '{' | '(' => depth += 1,
            '}' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    let field = |part: &str| {
        let name = part.split(['{', '.', '(']).next().unwrap_or(part).trim();
        let inner = part
            .split_once('{')
            .map(|(_, inner)| inner.trim_end_matches('}'));
        Asked {
            name: name.to_owned(),
            inner: inner.map_or_else(Vec::new, |inner| {
                inner
                    .split(',')
                    .map(|name| name.trim().to_owned())
                    .collect()
            }),
        }
    };
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(field)
        .collect()
}

/// Whether a Page has such a field.
pub(crate) fn is_field(name: &str) -> bool {
    PAGE.contains(&name)
}

/// Refuses the first field that does not exist, in Graph's words.
pub(super) fn check(asked: &[Asked]) -> Result<(), Refusal> {
    match asked.iter().find(|field| !is_field(&field.name)) {
        None => Ok(()),
        Some(field) => Err(nonexisting(&field.name, "Page")),
    }
}

pub(super) fn nonexisting(name: &str, kind: &str) -> Refusal {
    let message =
        format!("(#100) Tried accessing nonexisting field ({name}) on node type ({kind})");
    Refusal::oauth(100, None, &message)
}

/// How a Page looks. What it does not have is left out, as Graph does. `reads` makes every picture
/// URL a new one.
pub(super) fn view(page: &Page, asked: &[Asked], locale: &str, reads: u64) -> Map<String, Value> {
    let mut seen = Map::new();
    seen.insert("id".to_owned(), page.get("id").cloned().unwrap_or_default());
    for field in asked {
        let Some(value) = page.get(&field.name) else {
            continue;
        };
        let value = match field.name.as_str() {
            "picture" => picture(value, &field.inner, reads),
            "category" => localized(value, locale),
            "category_list" => {
                let mut list = value.clone();
                for item in list.as_array_mut().into_iter().flatten() {
                    item["name"] = localized(&item["name"], locale);
                }
                list
            }
            _ => value.clone(),
        };
        seen.insert(field.name.clone(), value);
    }
    seen
}

/// People who do not say which language they want get their own: here German.
fn localized(value: &Value, locale: &str) -> Value {
    match value.as_str() {
        Some(text) if locale != "en_US" => json!(format!("{text} (auf Deutsch)")),
        _ => value.clone(),
    }
}

fn picture(value: &Value, inner: &[String], reads: u64) -> Value {
    let mut data = value.get("data").unwrap_or(value).clone();
    if let Some(url) = data.get("url").and_then(Value::as_str) {
        data["url"] = json!(format!(
            "{url}?_nc_ohc={reads}&oh=00_{reads:x}&oe=6{reads:07x}"
        ));
    }
    if let (Some(data), false) = (data.as_object_mut(), inner.is_empty()) {
        data.retain(|name, _| inner.iter().any(|wanted| wanted == name));
    }
    json!({ "data": data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_outside_of_braces() {
        let parsed = parse("id,picture.width(200){url,cache_key},name");
        let names: Vec<&str> = parsed.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["id", "picture", "name"]);
        assert_eq!(parsed[1].inner, ["url", "cache_key"]);
    }

    #[test]
    fn the_two_fields_of_old_tutorials_do_not_exist() {
        for name in ["email", "created_time"] {
            let refusal = check(&parse(&format!("id,{name}"))).unwrap_err();
            let message = refusal.error["message"].as_str().unwrap().to_owned();
            assert_eq!(
                message,
                format!("(#100) Tried accessing nonexisting field ({name}) on node type (Page)")
            );
        }
    }
}
