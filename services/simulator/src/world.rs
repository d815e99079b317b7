//! The Pages of this Facebook.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::graph::is_field;

/// A Page: Graph field names and values; `id` is always there.
pub type Page = Map<String, Value>;

/// All Pages by id.
#[derive(Debug, Default)]
pub struct World {
    pages: BTreeMap<String, Page>,
    /// What a Page was before its last change, and when that was.
    before: BTreeMap<String, (u64, Page)>,
    reads: u64,
}

impl World {
    /// Adds a Page or replaces it.
    pub fn put(&mut self, page: &Page) -> Result<(), String> {
        let id = page
            .get("id")
            .and_then(Value::as_str)
            .ok_or("a Page needs an id, a string of digits")?;
        exist(page)?;
        self.pages.insert(id.to_owned(), page.clone());
        Ok(())
    }

    /// Every Page as a read sees it at `now`: for `stale` seconds after a change, as it was before.
    pub fn read(&self, now: u64, stale: u64) -> impl Iterator<Item = Page> {
        self.pages.iter().map(move |(id, page)| {
            let old = self.before.get(id).filter(|(at, _)| now < at + stale);
            old.map_or(page, |(_, before)| before).clone()
        })
    }

    /// Whether there is such a Page.
    pub fn has(&self, id: &str) -> bool {
        self.pages.contains_key(id)
    }

    /// Removes a Page as its owner would.
    pub fn remove(&mut self, id: &str) -> bool {
        self.pages.remove(id).is_some()
    }

    /// Counts a read, so that each can be told from the one before.
    pub fn count_read(&mut self) -> u64 {
        self.reads += 1;
        self.reads
    }

    /// Every Page.
    pub fn pages(&self) -> Vec<Page> {
        self.pages.values().cloned().collect()
    }

    /// Changes fields of a Page. Null unsets one. Answers with the Page and what really changed.
    pub fn change(
        &mut self,
        id: &str,
        fields: Page,
        now: u64,
    ) -> Result<(Page, Vec<(String, Value)>), String> {
        let page = self
            .pages
            .get_mut(id)
            .ok_or_else(|| format!("there is no Page {id}"))?;
        exist(&fields)?;
        if fields.contains_key("id") {
            return Err("the id of a Page does not change".to_owned());
        }
        let mut changed = Vec::new();
        self.before.insert(id.to_owned(), (now, page.clone()));
        for (field, value) in fields {
            if page.get(&field).unwrap_or(&Value::Null) == &value {
                continue;
            }
            if value.is_null() {
                page.remove(&field);
            } else {
                page.insert(field.clone(), value.clone());
            }
            changed.push((field, value));
        }
        Ok((page.clone(), changed))
    }
}

/// A misspelt field would never be read.
fn exist(fields: &Page) -> Result<(), String> {
    match fields.keys().find(|name| !is_field(name)) {
        None => Ok(()),
        Some(name) => Err(format!("a Page has no field {name:?}")),
    }
}
