//! The fields of a Page: their names, which of them are tracked, and how their values compare.
//!
//! Invariant: a [`FieldName`] has the form of a Graph field name, so it never equals an attribute
//! of the store, which begins with `_`.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::value::CanonicalValue;

/// The Graph name of a Page field: 1 to 64 lower-case ASCII letters, digits and `_`, a letter
/// first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldName(String);

impl FieldName {
    /// Parses a field name. Returns `None` if `text` does not have the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let first = text.bytes().next()?;
        let is_name_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        (text.len() <= 64 && first.is_ascii_lowercase() && text.bytes().all(is_name_byte))
            .then(|| Self(text.to_owned()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the field is a number that visitors of the Page change every day. Its value
    /// is stored, but its changes appear neither in the history nor in the change feed.
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

    /// Returns whether two values of this field have the same meaning.
    ///
    /// Every read returns the URL of a picture with another signature, so pictures compare by
    /// `cache_key` or, without one, by the path of the URL. The names of categories are localised,
    /// so lists of categories compare by id.
    pub fn is_same_value(&self, a: Option<&CanonicalValue>, b: Option<&CanonicalValue>) -> bool {
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

/// Returns the `cache_key` of a picture or, without one, the path of its URL.
fn picture_identity(value: &CanonicalValue) -> Option<String> {
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

/// Returns the ids in a list of categories, or `None` if it is not such a list.
fn category_ids(value: &CanonicalValue) -> Option<BTreeSet<String>> {
    let json = value.to_json();
    json.as_array()?
        .iter()
        .map(|item| Some(item.get("id")?.as_str()?.to_owned()))
        .collect()
}

/// The error for a text that is not a [`FieldName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidFieldName;

impl fmt::Display for InvalidFieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name is 1 to 64 lower-case letters, digits and _, a letter first")
    }
}

impl std::error::Error for InvalidFieldName {}

impl TryFrom<String> for FieldName {
    type Error = InvalidFieldName;

    fn try_from(text: String) -> Result<Self, InvalidFieldName> {
        Self::parse(&text).ok_or(InvalidFieldName)
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

/// The Graph fields that are tracked unless `PAGESYNC_FIELDS` names others, separated by commas.
pub const DEFAULT_TRACKED: &str = "about,category,category_list,description,emails,fan_count,followers_count,hours,is_permanently_closed,is_published,link,location,name,phone,picture,single_line_address,username,verification_status,website";

/// The set of fields that are stored for every Page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedFields(BTreeSet<FieldName>);

impl TrackedFields {
    /// Parses Graph field names that are separated by commas. Returns `None` if one of them is not
    /// a field name.
    pub fn parse(text: &str) -> Option<Self> {
        let fields = text.split(',').map(|name| FieldName::parse(name.trim()));
        fields.collect::<Option<Vec<_>>>().map(Self::new)
    }

    /// Returns the set of exactly these fields.
    pub fn new(fields: impl IntoIterator<Item = FieldName>) -> Self {
        Self(fields.into_iter().collect())
    }

    /// Returns the fields in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &FieldName> {
        self.0.iter()
    }

    /// Returns whether `field` is tracked.
    pub fn contains(&self, field: &FieldName) -> bool {
        self.0.contains(field)
    }
}

impl Default for TrackedFields {
    fn default() -> Self {
        Self::parse(DEFAULT_TRACKED)
            .unwrap_or_else(|| unreachable!("the default fields are field names"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn is_same(field: &str, a: &Value, b: &Value) -> bool {
        let field = FieldName::parse(field).unwrap();
        field.is_same_value(
            CanonicalValue::from_json(a).as_ref(),
            CanonicalValue::from_json(b).as_ref(),
        )
    }

    #[test]
    fn a_picture_is_the_same_when_only_the_signature_of_its_url_changed() {
        let picture = |url: &str| json!({"data": {"url": url, "is_silhouette": false}});
        assert!(is_same(
            "picture",
            &picture("https://a.fbcdn.net/v/1.jpg?oh=1"),
            &picture("https://b.fbcdn.net/v/1.jpg?oh=2")
        ));
        assert!(!is_same(
            "picture",
            &picture("https://a.fbcdn.net/v/1.jpg?oh=1"),
            &picture("https://a.fbcdn.net/v/2.jpg?oh=1")
        ));
        let picture_with_key =
            |key: &str, url: &str| json!({"data": {"cache_key": key, "url": url}});
        assert!(is_same(
            "picture",
            &picture_with_key("k", "https://x/1"),
            &picture_with_key("k", "https://y/2")
        ));
        assert!(!is_same(
            "picture",
            &picture_with_key("k", "https://x/1"),
            &picture_with_key("l", "https://x/1")
        ));
    }

    #[test]
    fn categories_compare_by_id() {
        let category = |name: &str| json!([{"id": "2265", "name": name}]);
        assert!(is_same(
            "category_list",
            &category("Website"),
            &category("网站")
        ));
        assert!(!is_same(
            "category_list",
            &category("Website"),
            &json!([{"id": "1", "name": "Website"}])
        ));
    }

    #[test]
    fn a_field_name_is_never_an_attribute_of_the_store() {
        for bad in ["", "_version", "Name", "a-b", "!v", "é", &"x".repeat(65)] {
            assert_eq!(FieldName::parse(bad), None, "{bad}");
        }
        assert!(TrackedFields::parse(DEFAULT_TRACKED).is_some());
    }
}
