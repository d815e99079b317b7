//! Selects Pages for a list, and continues at a cursor.
//!
//! Invariant: one request looks at no more than [`MAX_EXAMINED`] Pages, and reads them from the index that
//! fits the request best.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::problem::{Code, Problem};
use common::records::api_key::ApiKey;
use common::store::{PageIndex, Store, StoreError, StoredPage, Versioned};
use common::views::page::page_view;
use model::id::{PageId, UserId};
use model::page::{Page, Status};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::auth::Caller;
use crate::query;

/// The largest number of Pages that one request looks at.
pub(crate) const MAX_EXAMINED: usize = 1000;
/// The largest number of Pages that are loaded at once.
const CHUNK: usize = 250;
/// The largest number of ids in `ids`.
const MAX_IDS: usize = 100;

/// The parameters that select Pages.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Selection {
    /// Go on after this cursor, which is the `next` of the previous answer. Empty for the beginning.
    pub(crate) after: Option<String>,
    /// The largest number of Pages in the answer, from 1 to 500; 100 by default.
    pub(crate) limit: Option<usize>,
    /// The Graph names of the fields to include, separated by commas, or `all`.
    pub(crate) fields: Option<String>,
    /// Only Pages with this status.
    pub(crate) status: Option<String>,
    /// Only Pages of this client.
    pub(crate) client: Option<String>,
    /// Only Pages to which the connection of this person gives access.
    pub(crate) connection: Option<String>,
    /// Only these Pages: up to 100 ids, separated by commas.
    pub(crate) ids: Option<String>,
    /// Only Pages whose name, username or id contains this text; upper and lower case are the same. One
    /// request looks at up to 1,000 Pages, so an answer can have a `next` and no Pages.
    pub(crate) q: Option<String>,
}

impl Selection {
    /// Returns the cursor, or `None` for the beginning of the list.
    pub(crate) fn after(&self) -> Result<Option<PageId>, Problem> {
        let after = self.after.as_deref().filter(|text| !text.is_empty());
        after.map(query::page_id).transpose()
    }
}

/// Where the Pages of a list come from.
#[derive(Debug)]
enum Source {
    Index(PageIndex),
    /// These Pages, ordered by their ids as text.
    Ids(Vec<PageId>),
}

/// The Pages of a list.
#[derive(Debug)]
pub(crate) struct PageFilter {
    source: Source,
    status: Option<Status>,
    client: Option<String>,
    connection: Option<UserId>,
    text: Option<String>,
    key: Arc<ApiKey>,
}

/// A part of a list.
#[derive(Debug)]
pub(crate) struct Found {
    /// The Pages, ordered by their ids as text.
    pub(crate) pages: Vec<(PageId, Versioned<StoredPage>)>,
    /// The cursor to go on; `None` after the last Page.
    pub(crate) next: Option<PageId>,
}

impl PageFilter {
    /// Returns the filter of a request.
    pub(crate) fn new(selection: &Selection, caller: &Caller) -> Result<Self, Problem> {
        let status = selection.status.as_ref().map(|text| {
            let unknown = |_| {
                Problem::invalid("status is the status of a Page, such as active or needs_login")
            };
            text.parse::<Status>().map_err(unknown)
        });
        let status = status.transpose()?;
        if selection.connection.is_some() && caller.key.is_limited() {
            let detail = "the key is limited to some Pages or a client, and may not see people";
            return Err(Problem::new(Code::Forbidden, detail));
        }
        let connection = selection
            .connection
            .as_deref()
            .map(query::user_id)
            .transpose()?;
        let ids = selection.ids.as_deref().map(parse_ids).transpose()?;
        let client = selection
            .client
            .clone()
            .or_else(|| caller.key.client.clone());
        let index = match (&connection, &client, status) {
            (Some(user), _, _) => PageIndex::Connection(user.clone()),
            (None, Some(client), _) => PageIndex::Client(client.clone()),
            (None, None, Some(status)) => PageIndex::Status(status),
            (None, None, None) => PageIndex::All,
        };
        // A key of one client finds no Page of another one, and must not learn its id as a cursor.
        let is_foreign = caller.key.client.is_some() && caller.key.client != client;
        let ids = if is_foreign { Some(Vec::new()) } else { ids };
        let source = match ids.or_else(|| caller.key.pages.clone()) {
            Some(mut ids) => {
                ids.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
                ids.dedup();
                Source::Ids(ids)
            }
            None => Source::Index(index),
        };
        Ok(Self {
            source,
            status,
            client,
            connection,
            text: selection.q.as_ref().map(|text| text.to_lowercase()),
            key: caller.key.clone(),
        })
    }

    /// Returns the filter of the Pages of an index that a key may see.
    pub(crate) fn of_key(index: PageIndex, caller: &Caller) -> Self {
        Self {
            source: Source::Index(index),
            status: None,
            client: None,
            connection: None,
            text: None,
            key: caller.key.clone(),
        }
    }

    /// Returns the ids of all Pages.
    pub(crate) async fn all_ids(&self, store: &dyn Store) -> Result<BTreeSet<PageId>, StoreError> {
        let (mut ids, mut after) = (BTreeSet::new(), None);
        loop {
            let found = self.next(store, after, MAX_EXAMINED).await?;
            ids.extend(found.pages.into_iter().map(|(id, _)| id));
            if found.next.is_none() {
                return Ok(ids);
            }
            after = found.next;
        }
    }

    /// Returns up to `limit` Pages after the cursor.
    pub(crate) async fn next(
        &self,
        store: &dyn Store,
        mut after: Option<PageId>,
        limit: usize,
    ) -> Result<Found, StoreError> {
        let (mut pages, mut examined) = (Vec::new(), 0);
        while examined < MAX_EXAMINED && pages.len() < limit {
            let wanted = CHUNK.min(MAX_EXAMINED - examined);
            let chunk = self.chunk(store, after.as_ref(), wanted).await?;
            let is_last = chunk.len() < wanted;
            for (id, stored) in chunk {
                examined += 1;
                after = Some(id.clone());
                if self.matches(&id, &stored) {
                    pages.push((id, stored));
                    if pages.len() == limit {
                        break;
                    }
                }
            }
            if is_last && pages.len() < limit {
                return Ok(Found { pages, next: None });
            }
        }
        Ok(Found { pages, next: after })
    }

    async fn chunk(
        &self,
        store: &dyn Store,
        after: Option<&PageId>,
        wanted: usize,
    ) -> Result<Vec<(PageId, Versioned<StoredPage>)>, StoreError> {
        let ids = match &self.source {
            Source::Index(index) => return store.list_pages(index, after, wanted).await,
            Source::Ids(ids) => ids,
        };
        let is_later = |id: &&PageId| after.is_none_or(|after| id.as_str() > after.as_str());
        let ids: Vec<PageId> = ids.iter().filter(is_later).take(wanted).cloned().collect();
        let pages = store.load_pages(&ids).await?;
        Ok(ids.into_iter().zip(pages).collect())
    }

    fn matches(&self, id: &PageId, stored: &Versioned<StoredPage>) -> bool {
        if matches!(stored.value, StoredPage::Unknown) {
            return false;
        }
        let page = match &stored.value {
            StoredPage::Page(page) => Some(page),
            StoredPage::Unknown | StoredPage::Corrupt(_) => None,
        };
        let client = page.and_then(|page| page.client.as_deref());
        let has_connection =
            |user: &UserId| page.is_some_and(|page| page.connections.contains(user));
        let status = page_view(id, stored).status;
        self.key.may_see(id, client)
            && self.status.is_none_or(|wanted| wanted == status)
            && (self.client.is_none() || self.client.as_deref() == client)
            && self.connection.as_ref().is_none_or(has_connection)
            && self.text.as_ref().is_none_or(|text| {
                id.as_str().contains(text) || page.is_some_and(|page| contains(page, text))
            })
    }
}

/// Returns whether the name or the username of a Page contains a text in lower case.
fn contains(page: &Page, text: &str) -> bool {
    let named = page
        .registers
        .iter()
        .filter(|(field, _)| matches!(field.as_str(), "name" | "username"));
    let mut values = named.filter_map(|(_, register)| register.value.as_ref());
    values.any(|value| {
        let value = value.to_json();
        value
            .as_str()
            .is_some_and(|value| value.to_lowercase().contains(text))
    })
}

fn parse_ids(text: &str) -> Result<Vec<PageId>, Problem> {
    let ids: Result<Vec<PageId>, Problem> = text.split(',').map(query::page_id).collect();
    let ids = ids?;
    if ids.len() > MAX_IDS {
        return Err(Problem::invalid(format!(
            "ids has up to {MAX_IDS} ids, separated by commas"
        )));
    }
    Ok(ids)
}
