//! Checks JSON against its description in `docs/json.md`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

/// The objects that `docs/json.md` describes, each with its members and their types.
pub(crate) struct Reference(BTreeMap<String, BTreeMap<String, String>>);

/// The beginning of the sentence in the reference that names the base of an object.
const EXTENDS: &str = "It has every member of `";

impl Reference {
    pub(crate) fn load() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut objects: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for section in text.split("\n## ").skip(1) {
            let (name, body) = section.split_once('\n').unwrap();
            let mut members = BTreeMap::new();
            if let Some((_, rest)) = body.split_once(EXTENDS) {
                let base = rest.split('`').next().unwrap();
                // The base can be described later, so its members are added below.
                members.insert("..".to_owned(), base.to_owned());
            }
            for line in body.lines().filter(|line| line.starts_with("| `")) {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                members.insert(cells[1].trim_matches('`').to_owned(), cells[2].to_owned());
            }
            assert!(!members.is_empty(), "{name} has no members");
            objects.insert(name.trim().to_owned(), members);
        }
        let bases = objects.clone();
        for members in objects.values_mut() {
            if let Some(base) = members.remove("..") {
                members.extend(bases[&base].clone());
            }
        }
        Self(objects)
    }

    /// Checks `value` against `kind`, which names an object of the reference or one of its types.
    pub(crate) fn check(&self, kind: &str, value: &Json, at: &str) {
        if let Some(kind) = kind.strip_suffix(" or null") {
            if !value.is_null() {
                self.check(kind, value, at);
            }
            return;
        }
        if let Some(kind) = kind.strip_prefix("list of ") {
            let items = value.as_array().unwrap_or_else(|| panic!("{at}: {value}"));
            for item in items {
                self.check(kind, item, &format!("{at}[]"));
            }
            return;
        }
        if let Some(kind) = kind.strip_prefix("map of ") {
            let members = value.as_object().unwrap_or_else(|| panic!("{at}: {value}"));
            for (name, member) in members {
                self.check(kind, member, &format!("{at}.{name}"));
            }
            return;
        }
        let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let text = value.as_str();
        let fits = match kind {
            "value" => true,
            "string" => text.is_some(),
            "id" => text.is_some_and(|text| (1..=20).contains(&text.len()) && is_digits(text)),
            "time" => text
                .is_some_and(|text| text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()),
            "day" => text.is_some_and(|text| text.parse::<jiff::civil::Date>().is_ok()),
            "integer" => value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            object => return self.check_object(object, value, at),
        };
        assert!(fits, "{at} is not a {kind}: {value}");
    }

    fn check_object(&self, kind: &str, value: &Json, at: &str) {
        let described = self.0.get(kind);
        let described = described.unwrap_or_else(|| panic!("{at}: {kind} is not described"));
        let members = value.as_object().unwrap_or_else(|| panic!("{at}: {value}"));
        let names: Vec<&String> = members.keys().collect();
        let expected: Vec<&String> = described.keys().collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected, "{at} differs from {kind} in docs/json.md");
        for (name, member) in members {
            self.check(&described[name], member, &format!("{at}.{name}"));
        }
    }
}
