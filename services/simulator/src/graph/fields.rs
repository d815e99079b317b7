//! Parses and checks the parameter `fields` of a call, and selects these fields of a Page.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::call::Call;
use super::refusal::ErrorReply;
use crate::errors::AnswerFault;
use crate::page_fields::is_page_field;
use crate::pages::Page;
use crate::simulator::Simulator;

/// The language of a person, which is used if a call names no language.
const DEFAULT_LOCALE: &str = "de_DE";

/// A field that a call requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestedField {
    pub(super) name: String,
    /// The subfields in its braces.
    subfields: Vec<String>,
}

/// The fields of a Page that a call requests, and the language of their values.
#[derive(Debug)]
pub(super) struct FieldSelection<'a> {
    fields: Vec<RequestedField>,
    locale: &'a str,
}

impl<'a> FieldSelection<'a> {
    /// Returns the fields and the language that a call requests. A call that names no fields gets
    /// `default_fields`.
    ///
    /// Fails if the call names a field that Pages do not have or that is refused.
    pub(super) fn of_call(
        simulator: &Simulator,
        call: &'a Call,
        default_fields: &str,
    ) -> Result<Self, ErrorReply> {
        let named = call.parameter("fields").map(name_text);
        let fields = parse(named.as_deref().unwrap_or(default_fields));
        check(&fields)?;
        check_ended(&fields, &call.version)?;
        check_refused(&fields, &simulator.facebook().graph_faults.refused_fields)?;
        let locale = call.parameter("locale").unwrap_or(DEFAULT_LOCALE);
        Ok(Self { fields, locale })
    }

    /// Returns whether the call requests a field.
    pub(super) fn includes(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }

    /// Returns the requested fields of a Page. As in Graph, fields without a value are left out.
    ///
    /// `read` is the number of this read. It becomes part of the address of the picture, which
    /// therefore differs in each read.
    pub(super) fn show(&self, page: &Page, read: u64) -> Map<String, Value> {
        let mut shown = Map::new();
        shown.insert("id".to_owned(), page.get("id").cloned().unwrap_or_default());
        for field in &self.fields {
            let Some(value) = page.get(&field.name) else {
                continue;
            };
            let value = match field.name.as_str() {
                "picture" => picture(value, &field.subfields, read),
                "category" => self.localized(value),
                "category_list" => {
                    let mut list = value.clone();
                    for item in list.as_array_mut().into_iter().flatten() {
                        item["name"] = self.localized(&item["name"]);
                    }
                    list
                }
                _ => with_subfields(value, &field.subfields),
            };
            shown.insert(field.name.clone(), value);
        }
        shown
    }

    /// Returns a text in the language of the call.
    ///
    /// If a call names no language, Graph uses the language of the person. Here it is German.
    fn localized(&self, value: &Value) -> Value {
        match value.as_str() {
            Some(text) if self.locale != "en_US" => json!(format!("{text} (auf Deutsch)")),
            _ => value.clone(),
        }
    }
}

/// Returns the parameter `fields` without the brackets and quotation marks of JSON text.
fn name_text(text: &str) -> String {
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(names) => names.join(","),
        Err(_) => text.to_owned(),
    }
}

/// Returns an object with the requested subfields only. Any other value, and an object without
/// requested subfields, is returned as it is.
fn with_subfields(value: &Value, subfields: &[String]) -> Value {
    let mut value = value.clone();
    if let (Some(object), false) = (value.as_object_mut(), subfields.is_empty()) {
        object.retain(|name, _| subfields.iter().any(|requested| requested == name));
    }
    value
}

/// The fields that end with v26. Source: the changelog of v26, and restfb#1693.
const ENDED_FIELDS: [&str; 5] = [
    "current_location",
    "genre",
    "network",
    "parking",
    "start_info",
];

/// Fails with Graph's error for the first field that has ended in the version of the call.
fn check_ended(fields: &[RequestedField], version: &str) -> Result<(), ErrorReply> {
    let is_ended = |field: &&RequestedField| ENDED_FIELDS.contains(&field.name.as_str());
    match fields.iter().find(is_ended).filter(|_| version == "v26.0") {
        None => Ok(()),
        Some(RequestedField { name, .. }) => {
            let message = format!("(#12) {name} field is deprecated for versions v26.0 and higher");
            Err(ErrorReply::oauth(12, None, &message))
        }
    }
}

/// Parses the parameter `fields`. Commas inside braces and parentheses do not separate fields.
pub(super) fn parse(text: &str) -> Vec<RequestedField> {
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
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(parse_field)
        .collect()
}

fn parse_field(part: &str) -> RequestedField {
    let name = part.split(['{', '.', '(']).next().unwrap_or(part).trim();
    let subfields = part
        .split_once('{')
        .map(|(_, subfields)| subfields.trim_end_matches('}'));
    RequestedField {
        name: name.to_owned(),
        subfields: subfields.map_or_else(Vec::new, |subfields| {
            subfields
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect()
        }),
    }
}

/// Fails with Graph's error for the first field that Pages do not have.
fn check(fields: &[RequestedField]) -> Result<(), ErrorReply> {
    match fields.iter().find(|field| !is_page_field(&field.name)) {
        None => Ok(()),
        Some(field) => Err(nonexisting(&field.name, "Page")),
    }
}

/// Fails with the error of the first field that is refused.
fn check_refused(
    fields: &[RequestedField],
    refused: &BTreeMap<String, String>,
) -> Result<(), ErrorReply> {
    let mut errors = fields
        .iter()
        .filter_map(|field| Some((field, refused.get(&field.name)?)));
    let Some((field, name)) = errors.next() else {
        return Ok(());
    };
    match AnswerFault::parse(name) {
        Some(AnswerFault::Error(known)) => {
            let mut error = known.to_json();
            error["message"] = json!(known.message.replace("emails", &field.name));
            Err(ErrorReply {
                status: known.status,
                error,
            })
        }
        _ => Ok(()),
    }
}

/// Returns Graph's error for a field that a type of objects does not have.
pub(super) fn nonexisting(name: &str, node_type: &str) -> ErrorReply {
    let message =
        format!("(#100) Tried accessing nonexisting field ({name}) on node type ({node_type})");
    ErrorReply::oauth(100, None, &message)
}

/// Returns the field `picture` with the requested subfields. Its address differs in each read.
fn picture(value: &Value, subfields: &[String], read: u64) -> Value {
    let mut data = value.get("data").unwrap_or(value).clone();
    if let Some(url) = data.get("url").and_then(Value::as_str) {
        data["url"] = json!(format!(
            "{url}?_nc_ohc={read}&oh=00_{read:x}&oe=6{read:07x}"
        ));
    }
    if let (Some(data), false) = (data.as_object_mut(), subfields.is_empty()) {
        data.retain(|name, _| subfields.iter().any(|requested| requested == name));
    }
    json!({ "data": data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_at_commas_outside_of_braces() {
        let parsed = parse("id,picture.width(200){url,cache_key},name");
        let names: Vec<&str> = parsed.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["id", "picture", "name"]);
        assert_eq!(parsed[1].subfields, ["url", "cache_key"]);
    }

    #[test]
    fn fields_that_only_old_tutorials_name_are_refused() {
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
