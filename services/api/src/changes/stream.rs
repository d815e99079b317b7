//! The change feed as an event stream (Server-Sent Events, HTML standard).
//!
//! Invariants: the number of open streams is limited. A stream ends when the process stops, when entries
//! after its cursor are missing, when its key ends, or when the store does not answer; the reader connects
//! again with the id of the last event.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use common::http::ConnectionPlace;
use common::problem::{Code, Problem};
use common::store::Cursor;
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::feed::Read;
use super::stream_places::StreamPlace;
use crate::auth::Caller;
use crate::context::Context;

/// How often a stream without a change sends its cursor, so that a lost connection is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often the key of a stream without changes is checked.
const KEY_CHECK: Duration = Duration::from_secs(5);
/// How many changes are sent at once.
const CHUNK: usize = 500;

/// An open stream.
struct Stream {
    context: Arc<Context>,
    caller: Caller,
    after: Option<Cursor>,
    added: watch::Receiver<()>,
    place: ConnectionPlace,
    has_ended: bool,
    _stream_place: StreamPlace,
}

/// Opens a stream after a cursor. Fails if too many are open, or if entries after the cursor are missing.
pub(super) async fn open(
    context: &Arc<Context>,
    caller: Caller,
    after: Option<Cursor>,
    place: ConnectionPlace,
) -> Result<Response, Problem> {
    let stream_place = context.streams.take(&caller.id).ok_or_else(|| {
        let detail = "too many event streams are open, or half of them with this key: close some, or follow /v1/changes with wait";
        Problem::new(Code::TooManyStreams, detail)
    })?;
    let added = context.feed.subscribe();
    // A cursor that is gone is answered with 410, because a client can read its body.
    if let Read::Gone(cursor) = context.feed.read(after.as_ref(), 1).await? {
        return Err(Problem::gone(cursor.to_string()));
    }
    let stream = Stream {
        context: context.clone(),
        caller,
        after,
        added,
        place,
        has_ended: false,
        _stream_place: stream_place,
    };
    let body = stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), stream))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

impl Stream {
    /// Returns the next events, or `None` at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        let events = self.next_events().await?;
        // Connections that are not used lose their place first.
        self.place.record_use();
        Some(events)
    }

    async fn next_events(&mut self) -> Option<Bytes> {
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            let is_usable = self.caller.require_usable(&self.context).await.is_ok();
            if self.has_ended || self.context.lifecycle.is_stopping() || !is_usable {
                return None;
            }
            self.added.borrow_and_update();
            let changes = match self.context.feed.read(self.after.as_ref(), CHUNK).await {
                Ok(Read::Changes(changes)) => changes,
                Ok(Read::Gone(cursor)) => {
                    self.has_ended = true;
                    let problem = Problem::gone(cursor.to_string()).json();
                    return Some(format!("event: gone\ndata: {problem}\n\n").into());
                }
                // The client connects again, and learns from the answer what is wrong.
                Err(_) => return None,
            };
            if let Some(last) = changes.last() {
                self.after = Some(last.cursor.clone());
            }
            let visible = changes
                .iter()
                .filter_map(|change| change.seen_by(&self.caller.key));
            let events: Vec<u8> = visible.flat_map(|change| change.event.to_vec()).collect();
            if !events.is_empty() {
                return Some(events.into());
            }
            if Instant::now() >= heartbeat {
                return Some(self.heartbeat());
            }
            if !changes.is_empty() {
                continue;
            }
            let wait = Instant::now() + KEY_CHECK;
            tokio::select! {
                _ = self.added.changed() => {}
                () = tokio::time::sleep_until(heartbeat.min(wait)) => {}
                () = self.context.lifecycle.stopping() => return None,
            }
        }
    }

    /// Returns an event without data, which only sets the id at the reader.
    fn heartbeat(&self) -> Bytes {
        match &self.after {
            Some(cursor) => format!("id: {cursor}\n\n").into(),
            None => Bytes::from_static(b": no change yet\n\n"),
        }
    }
}
