//! Reads of Pages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::problem::{Code, Problem};
use common::store::{StoredPage, Versioned, load_page};
use common::views::explain::explain;
use common::views::page::{ChangeView, PageDetail, PageView, change_view, page_detail, page_view};
use model::id::PageId;
use model::page::Page;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::context::Context;
use crate::page_filter::{PageFilter, Selection};
use crate::query::{self, Id, Parameters};

/// The version of pagesync, which is part of each tag, because another version can answer other JSON.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// A part of the list of Pages.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PageList {
    /// The Pages, ordered by their ids as text.
    pages: Vec<PageItem>,
    /// The cursor to go on; null after the last Page.
    next: Option<String>,
}

/// A Page in a list: with the parameter `fields`, the object `page_detail`; without it, `page`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum PageItem {
    Summary(Box<PageView>),
    Detail(Box<PageDetail>),
}

/// The fields that an answer includes.
#[derive(Debug, Clone)]
enum Fields {
    All,
    Named(BTreeSet<String>),
}

impl Fields {
    fn parse(text: &str) -> Result<Self, Problem> {
        if text == "all" {
            return Ok(Self::All);
        }
        query::field_names(text).map(Self::Named)
    }

    /// Returns the part of a Page that the answer includes. A limited key does not see people.
    fn of(&self, mut detail: PageDetail, caller: &Caller) -> PageDetail {
        if caller.key.is_limited() {
            detail.connections.clear();
        }
        if let Self::Named(names) = self {
            detail.fields.retain(|name, _| names.contains(name));
        }
        detail
    }
}

/// List Pages
///
/// The Pages that the key may see, ordered by their ids as text.
#[utoipa::path(
    get, operation_id = "list_pages", path = "/v1/pages", tag = "Pages", params(Selection),
    responses((status = 200, body = PageList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn list(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Parameters(selection): Parameters<Selection>,
) -> Result<Json<PageList>, Problem> {
    let limit = query::limit(selection.limit, 100, 500)?;
    let after = selection.after()?;
    let fields = selection.fields.as_deref().map(Fields::parse).transpose()?;
    let filter = PageFilter::new(&selection, &caller)?;
    let found = filter.next(&*context.store, after, limit).await?;
    let item = |(id, stored): &(PageId, Versioned<StoredPage>)| match (&fields, &stored.value) {
        (Some(fields), StoredPage::Page(page)) => PageItem::Detail(Box::new(
            fields.of(page_detail(id, stored.version, page), &caller),
        )),
        _ => PageItem::Summary(Box::new(page_view(id, stored))),
    };
    Ok(Json(PageList {
        pages: found.pages.iter().map(item).collect(),
        next: found.next.map(|id| id.to_string()),
    }))
}

/// Count Pages
///
/// The number of Pages with each status. The key must not be limited.
#[utoipa::path(
    get, operation_id = "count_pages", path = "/v1/pages/counts", tag = "Pages",
    responses((status = 200, body = BTreeMap<String, u64>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn counts(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<BTreeMap<String, u64>>, Problem> {
    caller.require_unlimited()?;
    let counts = context.store.count_pages().await?;
    let named = counts
        .into_iter()
        .map(|(status, n)| (status.to_string(), n));
    Ok(Json(named.collect()))
}

/// The parameters of one Page.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OnePage {
    /// The Graph names of the fields to include, separated by commas; all by default.
    fields: Option<String>,
}

/// Show a Page
///
/// The Page with its fields. The answer has an `ETag`; with `If-None-Match`, an unchanged Page is answered
/// with 304.
#[utoipa::path(
    get, operation_id = "show_page", path = "/v1/pages/{id}", tag = "Pages",
    params(("id" = String, Path, description = "The id of the Page."), OnePage,
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an earlier answer.")),
    responses((status = 200, body = PageDetail), (status = 304, description = "The Page has not changed."),
        (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn show(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    Parameters(parameters): Parameters<OnePage>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let fields = parameters
        .fields
        .as_deref()
        .map_or(Ok(Fields::All), Fields::parse)?;
    // The epoch is read before the Page, so that a tag of an earlier epoch never names a newer Page.
    let epoch = context.feed.epoch();
    let (id, version, page) = visible_page(&context, &caller, &id).await?;
    let tag = epoch
        .and_then(|epoch| HeaderValue::from_str(&format!("\"{epoch}.{version}.{RELEASE}\"")).ok());
    let is_unchanged = tag.as_ref().is_some_and(|tag| matches_tag(&headers, tag));
    let mut response = if is_unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(fields.of(page_detail(&id, version, &page), &caller)).into_response()
    };
    if let Some(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Returns whether `If-None-Match` names a tag. The comparison is the weak one (RFC 9110).
fn matches_tag(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut listed = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().trim_start_matches("W/"));
    listed.any(|listed| listed == "*" || listed.as_bytes() == tag.as_bytes())
}

/// The last changes of a Page.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PageHistory {
    /// The changes, the newest first.
    changes: Vec<ChangeView>,
}

/// Show the history of a Page
///
/// The last 20 changes of its fields, the newest first.
#[utoipa::path(
    get, operation_id = "show_page_history", path = "/v1/pages/{id}/history", tag = "Pages",
    params(("id" = String, Path, description = "The id of the Page.")),
    responses((status = 200, body = PageHistory), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn history(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
) -> Result<Json<PageHistory>, Problem> {
    let (id, _, _) = visible_page(&context, &caller, &id).await?;
    let entries = context.store.history(&id).await?;
    Ok(Json(PageHistory {
        changes: entries
            .iter()
            .map(|entry| change_view(&id, entry))
            .collect(),
    }))
}

/// A Page in sentences.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Explanation {
    /// The sentences of `page explain`, on lines.
    text: String,
}

/// Explain a Page
///
/// Where each value comes from, and when the Page is read next, in sentences.
#[utoipa::path(
    get, operation_id = "explain_page", path = "/v1/pages/{id}/explain", tag = "Pages",
    params(("id" = String, Path, description = "The id of the Page.")),
    responses((status = 200, body = Explanation), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn explanation(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
) -> Result<Json<Explanation>, Problem> {
    let (id, version, page) = visible_page(&context, &caller, &id).await?;
    let text = explain(&id, version, &page, !caller.key.is_limited());
    Ok(Json(Explanation { text }))
}

/// Returns a Page that is stored and that the key may see.
pub(crate) async fn visible_page(
    context: &Context,
    caller: &Caller,
    id: &str,
) -> Result<(PageId, u64, Box<Page>), Problem> {
    let id = query::page_id(id)?;
    let stored = load_page(&*context.store, &id).await?;
    match stored.value {
        StoredPage::Page(page) if caller.may_see(&id, page.client.as_deref()) => {
            Ok((id, stored.version, page))
        }
        StoredPage::Corrupt(_) if caller.may_see(&id, None) => Err(Problem::new(
            Code::UnreadableData,
            "the stored data of the Page cannot be decoded; the next webhook or read replaces it",
        )),
        StoredPage::Page(_) | StoredPage::Corrupt(_) | StoredPage::Unknown => {
            Err(Problem::not_found("Page"))
        }
    }
}
