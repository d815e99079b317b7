//! The Pages of the simulated Facebook.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::page_fields::is_page_field;
use crate::simulator_error::SimulatorError;

/// A Page: Graph field names and their values. The field `id` is always present.
pub type Page = Map<String, Value>;

/// Returns the id of a Page, or `None` if it has no `id` that is a string.
pub(crate) fn id_of(page: &Page) -> Option<&str> {
    page.get("id").and_then(Value::as_str)
}

/// All Pages by id.
#[derive(Debug, Default)]
pub struct Pages {
    by_id: BTreeMap<String, Page>,
    /// The state of each Page before its last change.
    earlier_states: BTreeMap<String, EarlierState>,
    /// The number of reads until now.
    reads: u64,
}

/// A Page as it was before its last change.
#[derive(Debug)]
struct EarlierState {
    /// When the change happened, in UNIX seconds of the simulated clock.
    changed_at: u64,
    page: Page,
}

/// The result of a change of a Page.
#[derive(Debug)]
pub struct PageChange {
    /// The Page after the change.
    pub page: Page,
    /// The fields whose values changed.
    pub changed: Vec<ChangedField>,
}

/// A Graph field whose value changed.
#[derive(Debug)]
pub struct ChangedField {
    /// The name of the field.
    pub name: String,
    /// The new value; null if the field was unset.
    pub value: Value,
}

impl Pages {
    /// Adds a Page, or replaces the Page with the same id.
    ///
    /// Fails if the Page has no id or an unknown field.
    pub fn put(&mut self, page: &Page) -> Result<(), SimulatorError> {
        let id = id_of(page).ok_or(SimulatorError::PageWithoutId)?;
        check_fields(page)?;
        self.by_id.insert(id.to_owned(), page.clone());
        Ok(())
    }

    /// Returns every Page as a read at `now` returns it.
    ///
    /// For `stale_seconds` after a change, reads return the Page as it was before the change.
    pub fn seen_at(&self, now: u64, stale_seconds: u64) -> impl Iterator<Item = Page> {
        self.by_id.iter().map(move |(id, page)| {
            let earlier = self.earlier_states.get(id);
            let earlier = earlier.filter(|earlier| now < earlier.changed_at + stale_seconds);
            earlier.map_or(page, |earlier| &earlier.page).clone()
        })
    }

    /// Removes a Page, as its owner can. Returns whether it existed.
    pub fn remove(&mut self, id: &str) -> bool {
        self.by_id.remove(id).is_some()
    }

    /// Counts a read. Returns its number, which is unique.
    pub fn count_read(&mut self) -> u64 {
        self.reads += 1;
        self.reads
    }

    /// Returns every Page in its current state.
    pub fn all(&self) -> Vec<Page> {
        self.by_id.values().cloned().collect()
    }

    /// Changes fields of a Page at `now`. A null value unsets its field.
    ///
    /// Fails if the Page does not exist, if a field is unknown, or if `fields` names `id`.
    pub fn change(
        &mut self,
        id: &str,
        fields: Page,
        now: u64,
    ) -> Result<PageChange, SimulatorError> {
        let unknown = || SimulatorError::UnknownPage(id.to_owned());
        let page = self.by_id.get_mut(id).ok_or_else(unknown)?;
        check_fields(&fields)?;
        if fields.contains_key("id") {
            return Err(SimulatorError::FixedPageId);
        }
        let earlier = EarlierState {
            changed_at: now,
            page: page.clone(),
        };
        self.earlier_states.insert(id.to_owned(), earlier);
        let mut changed = Vec::new();
        for (name, value) in fields {
            if page.get(&name).unwrap_or(&Value::Null) == &value {
                continue;
            }
            if value.is_null() {
                page.remove(&name);
            } else {
                page.insert(name.clone(), value.clone());
            }
            changed.push(ChangedField { name, value });
        }
        Ok(PageChange {
            page: page.clone(),
            changed,
        })
    }
}

/// Fails if a Page has a field that Graph does not have, because no call could ever read it.
fn check_fields(page: &Page) -> Result<(), SimulatorError> {
    match page.keys().find(|name| !is_page_field(name)) {
        None => Ok(()),
        Some(name) => Err(SimulatorError::UnknownPageField(name.clone())),
    }
}
