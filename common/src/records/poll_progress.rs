//! The progress and the outcome of a connection poll.
//!
//! Invariant: the progress says where the next job continues, so that a poll that was interrupted
//! repeats at most one result page.

use std::collections::VecDeque;

use model::id::PageId;
use model::time::{FacebookTime, HostTime};
use serde::{Deserialize, Serialize};

/// A connection poll that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollProgress {
    /// When it began, on this host's clock. Tokens that it obtains are stored with this time.
    pub began_at: HostTime,
    /// The cursor of the next result page; `None` for the first one.
    pub cursor: Option<String>,
    /// The stamp of the first result page. The values of all result pages are at least as new.
    pub stamp: Option<FacebookTime>,
    /// How many Pages it has listed.
    pub pages: u64,
    /// How many result pages it has requested.
    pub calls: u64,
    /// The list from which the next result page is requested.
    #[serde(default)]
    pub source: PageSource,
    /// The lists that follow.
    #[serde(default)]
    pub remaining: VecDeque<PageSource>,
    /// How many portfolios the person has a role in; `None` if they were not searched.
    #[serde(default)]
    pub portfolios: Option<u64>,
    /// For how many Pages the person granted permissions by name; `None` if Facebook was not asked.
    #[serde(default)]
    pub granted: Option<u64>,
    /// The lists that could not be read, each with the reason.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The lists of portfolios for which the person lacks a role or a permission.
    #[serde(default)]
    pub refusals: Vec<String>,
}

/// A list of the Pages that a person manages.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageSource {
    /// `/me/accounts`: the Pages on which the person has a role of their own.
    #[default]
    Accounts,
    /// The Pages that a business portfolio owns.
    Owned(PortfolioId),
    /// The Pages that a business portfolio manages for others.
    Client(PortfolioId),
    /// One Page for which the person granted permissions.
    Granted(PageId),
}

/// The id of a business portfolio: digits, as the id of a Page.
pub type PortfolioId = PageId;

impl PollProgress {
    /// Returns the progress of a poll that begins at `began_at`.
    pub fn new(began_at: HostTime) -> Self {
        Self {
            began_at,
            cursor: None,
            stamp: None,
            pages: 0,
            calls: 0,
            source: PageSource::Accounts,
            remaining: VecDeque::new(),
            portfolios: None,
            granted: None,
            problems: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// Returns the problem of a poll that has read all lists, or `None` if there is none. For a person
    /// without Pages it names what was searched. `permissions` are those of the person.
    pub fn problem(&self, permissions: &[String]) -> Option<String> {
        let unread: Vec<&str> = self
            .problems
            .iter()
            .chain(&self.refusals)
            .map(String::as_str)
            .collect();
        let incomplete = (!unread.is_empty()).then(|| unread.join("; "));
        if self.pages > 0 {
            return incomplete;
        }
        let is_granted = |name: &str| permissions.iter().any(|granted| granted == name);
        let accounts = if is_granted("pages_show_list") {
            "/me/accounts is empty"
        } else {
            "/me/accounts is empty, because the permission pages_show_list is missing"
        };
        let portfolios = match self.portfolios {
            Some(0) => "the person has no role in a business portfolio".to_owned(),
            Some(count) => format!(
                "in the {count} business portfolios of the person, there is no Page with a token for them"
            ),
            None if is_granted("business_management") => {
                "business portfolios could not be searched".to_owned()
            }
            None => {
                "business portfolios were not searched, because the permission business_management is missing".to_owned()
            }
        };
        let granted = match self.granted {
            Some(0) => "the permissions name no Page".to_owned(),
            Some(count) => format!("the permissions name {count} Pages, which cannot be read"),
            None => "the permissions could not be read".to_owned(),
        };
        let mut text = format!(
            "Facebook lists no Page: {accounts}; {portfolios}; {granted}. The person must have a role on a Page, log in again and select it in Facebook's dialog"
        );
        if let Some(incomplete) = incomplete {
            text.push_str(". ");
            text.push_str(&incomplete);
        }
        Some(text)
    }
}

/// A complete connection poll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollOutcome {
    /// When it began, on this host's clock.
    pub began_at: HostTime,
    /// When it ended, on this host's clock.
    pub ended_at: HostTime,
    /// How many Pages it listed.
    pub pages: u64,
    /// How many result pages it requested.
    pub calls: u64,
    /// The lists of Pages that could not be read, each with the reason. With such a list, the poll
    /// does not show that the person lost a Page.
    #[serde(default)]
    pub problems: Vec<String>,
}
