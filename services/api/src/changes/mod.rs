//! The change feed: as a long poll, and as an event stream.
//!
//! Invariant: a cursor covers every change of the Pages that the key may see up to it. A reader that goes
//! on after the cursor of an answer that it has stored misses nothing.

pub(crate) mod feed;
mod stream;
pub(crate) mod stream_places;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use common::http::ConnectionPlace;
use common::problem::Problem;
use common::store::Cursor;
use common::views::page::FeedChangeView;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::context::Context;
use crate::query::{self, Parameters};
use feed::{EncodedChange, Read};

/// The largest number of changes that one request looks at.
const MAX_EXAMINED: usize = 20_000;
/// How many changes are read at once for a limited key.
const CHUNK: usize = 500;
/// The longest time that an answer waits for a change.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The header with which a browser continues an event stream.
const LAST_EVENT_ID: &str = "last-event-id";

/// The parameters of a read of the change feed.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ChangesAfter {
    /// The cursor of an earlier answer, or `newest` for the end of the feed. Without it, the answer begins
    /// with the first stored change.
    after: Option<String>,
    /// The largest number of changes in the answer, from 1 to 1,000; 100 by default.
    limit: Option<usize>,
    /// How long to wait for a change if there is none, such as `30s`; up to `60s`, and not at all by
    /// default.
    wait: Option<String>,
}

/// A part of the change feed. The answer is joined from changes that are encoded once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChangeList {
    /// The changes, the oldest first.
    changes: Vec<FeedChangeView>,
    /// The cursor to go on after.
    cursor: String,
}

/// Follow changes
///
/// The changes of the Pages that the key may see, in order, the oldest first: fields, statuses and
/// erasures. With `Accept: text/event-stream` the answer is an event stream that does not end: each event
/// `change` has a change as its data and its cursor as its id, and an event `gone` has a problem.
#[utoipa::path(
    get, operation_id = "list_changes", path = "/v1/changes", tag = "Changes",
    params(ChangesAfter, ("Last-Event-ID" = Option<String>, Header, description = "The cursor, which replaces `after` in an event stream.")),
    responses((status = 200, content((ChangeList = "application/json"), (String = "text/event-stream"))),
        (status = 410, body = Problem, content_type = "application/problem+json", description = "Changes after the cursor are no longer stored (`cursor_gone`)."),
        (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(crate) async fn list(
    State(context): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Extension(place): Extension<ConnectionPlace>,
    Parameters(parameters): Parameters<ChangesAfter>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let is_stream = accepts_stream(&headers);
    let last = headers.get(LAST_EVENT_ID).filter(|_| is_stream);
    let last = last.and_then(|value| value.to_str().ok());
    let after = match last.or(parameters.after.as_deref()) {
        None => None,
        Some("newest") => Some(context.feed.newest().await?),
        Some(text) => Some(Cursor::parse(text).ok_or_else(|| {
            Problem::invalid("after is a cursor of an earlier answer, or newest")
        })?),
    };
    let limit = query::limit(parameters.limit, 100, 1000)?;
    let wait = parameters.wait.as_deref().map(parse_wait).transpose()?;
    if is_stream {
        return stream::open(&context, caller, after, place).await;
    }
    // The end of an empty feed is read before its changes, so that the cursor covers no later one.
    let end = match after {
        None => Some(context.feed.newest().await?),
        Some(_) => None,
    };
    let deadline = Instant::now() + wait.unwrap_or_default();
    let (changes, cursor) = wait_for_changes(&context, &caller, after, limit, deadline).await?;
    let cursor = cursor.or(end);
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, joined(&changes, cursor.as_ref())).into_response())
}

/// Returns whether the header `Accept` asks for an event stream (RFC 9110).
fn accepts_stream(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter();
    let mut ranges = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    ranges.any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_stream = parts.next() == Some("text/event-stream");
        is_stream && !parts.any(|part| part.replace(' ', "").trim_end_matches(['0', '.']) == "q=")
    })
}

/// Returns the next changes that the key may see, and the cursor after them, or `None` if the feed is
/// empty. Waits until there is a change, until the deadline, or until the process stops. Looks at up to
/// [`MAX_EXAMINED`] changes.
async fn wait_for_changes(
    context: &Context,
    caller: &Caller,
    mut after: Option<Cursor>,
    limit: usize,
    deadline: Instant,
) -> Result<(Vec<Arc<EncodedChange>>, Option<Cursor>), Problem> {
    let mut added = context.feed.subscribe();
    // A limited key may see few of the changes, so more of them are read at once.
    let chunk = if caller.key.is_limited() {
        CHUNK.max(limit)
    } else {
        limit
    };
    let (mut examined, mut is_first) = (0, true);
    loop {
        added.borrow_and_update();
        let mut read = context.feed.read(after.as_ref(), chunk).await?;
        if is_first && matches!(&read, Read::Changes(changes) if changes.is_empty()) {
            read = context.feed.read_stored(after.as_ref(), chunk).await?;
        }
        is_first = false;
        let changes = match read {
            Read::Gone(cursor) => return Err(Problem::gone(cursor.to_string())),
            Read::Changes(changes) => changes,
        };
        let was_empty = changes.is_empty();
        examined += changes.len();
        let mut visible = Vec::new();
        for change in &changes {
            after = Some(change.cursor.clone());
            visible.extend(change.seen_by(&caller.key).cloned());
            if visible.len() == limit {
                break;
            }
        }
        if !visible.is_empty() || examined >= MAX_EXAMINED || context.lifecycle.is_stopping() {
            return Ok((visible, after));
        }
        // There may be more entries after those that the key may not see.
        if !was_empty {
            continue;
        }
        tokio::select! {
            _ = added.changed() => {}
            () = tokio::time::sleep_until(deadline) => return Ok((visible, after)),
            () = context.lifecycle.stopping() => return Ok((visible, after)),
        }
        caller.require_usable(context).await?;
    }
}

/// Returns the text of a [`ChangeList`].
fn joined(changes: &[Arc<EncodedChange>], cursor: Option<&Cursor>) -> Vec<u8> {
    let size: usize = changes.iter().map(|change| change.json.len() + 1).sum();
    let mut text = Vec::with_capacity(size + 100);
    text.extend_from_slice(b"{\"changes\":[");
    for (at, change) in changes.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&change.json);
    }
    let cursor = cursor.map(Cursor::to_string).unwrap_or_default();
    text.extend_from_slice(format!("],\"cursor\":\"{cursor}\"}}").as_bytes());
    text
}

fn parse_wait(text: &str) -> Result<Duration, Problem> {
    let seconds = text.strip_suffix('s').unwrap_or(text).parse().ok();
    let wait = seconds.map(Duration::from_secs);
    wait.filter(|wait| *wait <= MAX_WAIT)
        .ok_or_else(|| Problem::invalid("wait is a number of seconds from 0s to 60s"))
}
