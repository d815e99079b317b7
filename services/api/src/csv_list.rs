//! The list of Pages as CSV.
//!
//! Invariant: the Pages are read in chunks while the answer is sent, so that a long list needs no more
//! memory than a short one.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use common::csv_lines::{csv_cell, csv_line};
use common::problem::Problem;
use common::store::{StoreError, StoredPage, Versioned};
use common::views::page::{page_detail, page_view};
use futures_util::{StreamExt as _, stream};
use model::id::PageId;

use crate::auth::Caller;
use crate::context::Context;
use crate::page_filter::{PageFilter, Selection};
use crate::query::{self, Parameters};

/// How many Pages are sent at once.
const CHUNK: usize = 250;

/// List Pages as CSV
///
/// Every Page after the cursor, with one column for each field: those of `fields`, or the tracked ones. A
/// cell that a spreadsheet would take for a formula begins with an apostrophe.
#[utoipa::path(
    get, operation_id = "export_pages", path = "/v1/pages.csv", tag = "Pages", params(Selection),
    responses((status = 200, body = String, content_type = "text/csv"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn pages(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Parameters(selection): Parameters<Selection>,
) -> Result<Response, Problem> {
    if selection.limit.is_some() {
        return Err(Problem::invalid("the list as CSV has no limit"));
    }
    let after = selection.after()?;
    let filter = PageFilter::new(&selection, &caller)?;
    let columns: Vec<String> = match selection.fields.as_deref() {
        None | Some("all") => context.tracked_fields.clone(),
        Some(names) => query::field_names(names)?,
    };
    let fixed = ["id", "client", "status", "facebook_state", "version"];
    let header = csv_line(fixed.into_iter().chain(columns.iter().map(String::as_str)));
    let list = Arc::new(List {
        context,
        filter,
        columns,
    });
    let rows = stream::try_unfold(Position::After(after), move |position| {
        let list = list.clone();
        async move { list.next(position).await }
    });
    let lines = stream::once(std::future::ready(Ok(header))).chain(rows);
    let headers = [(
        header::CONTENT_TYPE,
        "text/csv; charset=utf-8; header=present",
    )];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// A list that is being sent.
struct List {
    context: Arc<Context>,
    filter: PageFilter,
    columns: Vec<String>,
}

/// Where a list goes on.
enum Position {
    After(Option<PageId>),
    End,
}

impl List {
    /// Returns the lines of the next Pages, or `None` at the end.
    async fn next(&self, position: Position) -> Result<Option<(String, Position)>, StoreError> {
        let Position::After(after) = position else {
            return Ok(None);
        };
        let found = self.filter.next(&*self.context.store, after, CHUNK).await?;
        let lines = found.pages.iter().map(|(id, stored)| self.line(id, stored));
        let next = match found.next {
            Some(next) => Position::After(Some(next)),
            None => Position::End,
        };
        Ok(Some((lines.collect(), next)))
    }

    fn line(&self, id: &PageId, stored: &Versioned<StoredPage>) -> String {
        let view = page_view(id, stored);
        let state = view.facebook_state.map(|state| state.to_string());
        let mut cells = vec![
            view.id.to_string(),
            view.client.unwrap_or_default(),
            view.status.to_string(),
            state.unwrap_or_default(),
            view.version.to_string(),
        ];
        let fields = match &stored.value {
            StoredPage::Page(page) => page_detail(id, stored.version, page).fields,
            StoredPage::Unknown | StoredPage::Corrupt(_) => std::collections::BTreeMap::new(),
        };
        let value = |name: &String| fields.get(name).map(|field| csv_cell(&field.value));
        cells.extend(
            self.columns
                .iter()
                .map(|name| value(name).unwrap_or_default()),
        );
        csv_line(cells.iter().map(String::as_str))
    }
}
