//! The people of the simulated Facebook, their business portfolios, and the login configurations of
//! the app.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A person who can log in, or a system user.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// The app-scoped user id.
    pub id: String,
    /// The name of the person.
    pub name: String,
    /// The ids of the Pages on which the person has a role of their own; `None` for every Page.
    #[serde(default)]
    pub pages: Option<BTreeSet<String>>,
    /// The business portfolios in which the person has a role.
    #[serde(default)]
    pub portfolios: Vec<Portfolio>,
    /// The ids of Pages that are listed for the person without a token.
    #[serde(default)]
    pub pages_without_token: BTreeSet<String>,
    /// The permissions that the app requested, and whether the person granted each of them.
    #[serde(default)]
    pub permissions: BTreeMap<String, bool>,
    /// The ids of the Pages that the person selected in the dialog; `None` for all of their Pages.
    #[serde(default)]
    pub selected_pages: Option<BTreeSet<String>>,
}

/// A business portfolio. `/me/accounts` does not list its Pages.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portfolio {
    /// The id of the portfolio.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The ids of the Pages that it owns.
    #[serde(default)]
    pub owned: BTreeSet<String>,
    /// The ids of the Pages that it manages for others.
    #[serde(default)]
    pub client: BTreeSet<String>,
}

impl Person {
    /// Returns whether the person has a role of their own on a Page.
    pub fn has_role(&self, page: &str) -> bool {
        self.pages.as_ref().is_none_or(|pages| pages.contains(page))
    }

    /// Returns whether the person selected a Page in the dialog.
    pub fn has_selected(&self, page: &str) -> bool {
        let selected = self.selected_pages.as_ref();
        selected.is_none_or(|selected| selected.contains(page))
    }

    /// Returns whether the person manages a Page, by a role of their own or through a portfolio, and
    /// selected it in the dialog.
    pub fn manages(&self, page: &str) -> bool {
        let in_portfolio = |portfolio: &Portfolio| {
            portfolio.owned.contains(page) || portfolio.client.contains(page)
        };
        let manages = self.has_role(page) || self.portfolios.iter().any(in_portfolio);
        manages && self.has_selected(page)
    }
}

/// A configuration of Facebook Login for Business, which replaces the permissions in the dialog.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginConfiguration {
    /// The permissions that the dialog asks for. The person grants all of them or none.
    pub permissions: Vec<String>,
    /// The id of the system user whose token the app gets; `None` for the token of the person.
    #[serde(default)]
    pub system_user: Option<String>,
}
