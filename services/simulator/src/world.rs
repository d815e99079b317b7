//! The Pages of this Facebook.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A Page: Graph field names and values; `id` is always there.
pub type Page = Map<String, Value>;

/// All Pages by id.
#[derive(Debug, Default)]
pub struct World {
    pages: BTreeMap<String, Page>,
}

impl World {
    /// Adds a Page or replaces it.
    pub fn put(&mut self, page: &Page) -> Result<(), String> {
        let id = page
            .get("id")
            .and_then(Value::as_str)
            .ok_or("a Page needs an id, a string of digits")?;
        self.pages.insert(id.to_owned(), page.clone());
        Ok(())
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
    ) -> Result<(Page, Vec<(String, Value)>), String> {
        let page = self
            .pages
            .get_mut(id)
            .ok_or_else(|| format!("there is no Page {id}"))?;
        let mut changed = Vec::new();
        for (field, value) in fields {
            if field == "id" {
                return Err("the id of a Page does not change".to_owned());
            }
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
