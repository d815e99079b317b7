//! Posts changes to destinations.
//!
//! Invariants: a destination is a cursor into the change feed. Its changes are posted one after the other,
//! and the cursor moves after an answer with a status from 200 to 299. Each destination has a task of its
//! own, so a slow one holds no other. Redirects are not followed.

mod post;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::config::destination::DestinationConfig;
use common::lifecycle::Lifecycle;
use common::records::destination::{self, Destination, RENEWAL};
use common::retry::DESTINATION;
use common::store::{Cursor, Store, StoreError, Versioned};
use common::telemetry::Metrics;
use tokio::time::Instant;

use crate::changes::feed::{EncodedChange, Feed, Read};
pub use common::posting::PostError;
pub use post::{Message, Poster};

/// How often a process looks whether a command has changed the destination.
const CHECK: Duration = Duration::from_secs(1);
/// How long the end of the lease is waited for when the process stops.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many changes are posted before the cursor is stored.
const CHUNK: usize = 50;

/// The task of one destination.
pub(crate) struct Pusher {
    pub(crate) config: DestinationConfig,
    pub(crate) poster: Poster,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) metrics: Metrics,
    /// A name that no other process has.
    pub(crate) process: Arc<str>,
    pub(crate) lifecycle: Lifecycle,
}

impl Pusher {
    /// Posts changes until the process stops. It then stores the cursor of the accepted posts.
    pub(crate) async fn run(self) -> Result<(), Infallible> {
        while !self.lifecycle.is_stopping() {
            let pause = self.step().await.unwrap_or_else(|error| {
                tracing::warn!(destination = self.config.name, error = %error, "changes cannot be posted now");
                RENEWAL
            });
            tokio::select! {
                () = self.lifecycle.stopping() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        let released = destination::release(&*self.store, &self.config.name, &self.process);
        // The lease ends by itself if the store does not answer.
        let _ = tokio::time::timeout(RELEASE_TIMEOUT, released).await;
        Ok(())
    }

    /// Posts the next changes if this process holds the lease. Returns how long to wait before the next
    /// step. Returns early when the process stops.
    async fn step(&self) -> Result<Duration, StoreError> {
        let name = &self.config.name;
        let renewal = Instant::now() + RENEWAL;
        let now = self.store.now().await?;
        let state = destination::acquire(&*self.store, name, &self.process, now).await?;
        let Some(state) = state else {
            return Ok(RENEWAL);
        };
        if state.value.is_paused {
            return Ok(CHECK);
        }
        if state.value.retry_at > now {
            return Ok(now.until(state.value.retry_at).min(CHECK));
        }
        let Some(stored) = state.value.cursor.clone() else {
            // A new destination begins with the changes from now on.
            let newest = self.feed.newest().await?;
            self.moved(state, &newest, 0).await?;
            return Ok(Duration::ZERO);
        };
        let Some(cursor) = Cursor::parse(&stored) else {
            let newest = self.feed.newest().await?;
            return self.announce_gap(state, &stored, newest).await;
        };
        let mut added = self.feed.subscribe();
        loop {
            added.borrow_and_update();
            match self.feed.read(Some(&cursor), CHUNK).await? {
                Read::Gone(newest) => return self.announce_gap(state, &stored, newest).await,
                Read::Changes(changes) if !changes.is_empty() => {
                    return self.post_all(state, cursor, &changes, renewal).await;
                }
                Read::Changes(_) => {}
            }
            tokio::select! {
                () = self.lifecycle.stopping() => return Ok(Duration::ZERO),
                // The next step looks at the lease and at what a command has changed.
                _ = added.changed() => return Ok(Duration::ZERO),
                () = tokio::time::sleep(CHECK) => {
                    let present = destination::find(&*self.store, name).await?;
                    if present.version != state.version || Instant::now() > renewal {
                        return Ok(Duration::ZERO);
                    }
                }
            }
        }
    }

    /// Posts a message. Returns `None` if the process stops before it was accepted.
    async fn post(&self, message: &Message) -> Option<Result<(), PostError>> {
        let posted = tokio::select! {
            () = self.lifecycle.stopping() => return None,
            posted = self.poster.post(message) => posted,
        };
        let outcome = posted.as_ref().err().map_or("accepted", PostError::label);
        self.metrics.change_posts.count(outcome);
        Some(posted)
    }

    /// Posts changes in order, and stores the cursor after the last accepted one.
    async fn post_all(
        &self,
        mut state: Versioned<Destination>,
        from: Cursor,
        changes: &[Arc<EncodedChange>],
        renewal: Instant,
    ) -> Result<Duration, StoreError> {
        let (mut cursor, mut accepted, mut failure) = (from, 0, None);
        for change in changes {
            match self
                .post(&Message::of_change(change, self.config.is_thin))
                .await
            {
                None => break,
                Some(Err(error)) => {
                    failure = Some(error);
                    break;
                }
                Some(Ok(())) => {}
            }
            cursor = change.cursor.clone();
            accepted += 1;
            if Instant::now() > renewal {
                break;
            }
        }
        if accepted > 0 {
            let Some(moved) = self.moved(state, &cursor, accepted).await? else {
                return Ok(Duration::ZERO);
            };
            state = moved;
        }
        match failure {
            None => Ok(Duration::ZERO),
            Some(error) => self.failed(state, &error).await,
        }
    }

    /// Tells the destination that the entries after the cursor `from` are missing, and goes on after the
    /// gap.
    async fn announce_gap(
        &self,
        state: Versioned<Destination>,
        from: &str,
        newest: Cursor,
    ) -> Result<Duration, StoreError> {
        match self.post(&Message::of_gap(from, &newest)).await {
            None => Ok(Duration::ZERO),
            Some(Ok(())) => self.moved(state, &newest, 0).await.map(|_| Duration::ZERO),
            Some(Err(error)) => self.failed(state, &error).await,
        }
    }

    /// Stores a cursor. If a command has changed the destination meanwhile but not its cursor, its change is
    /// kept. Returns `None` if the cursor is another one, so that the posts from it on are repeated.
    async fn moved(
        &self,
        mut state: Versioned<Destination>,
        cursor: &Cursor,
        accepted: u64,
    ) -> Result<Option<Versioned<Destination>>, StoreError> {
        let name = &self.config.name;
        let before = state.value.cursor.clone();
        let now = self.store.now().await?;
        loop {
            let value = &mut state.value;
            if value.failures > 0 {
                tracing::info!(
                    destination = name,
                    failures = value.failures,
                    "a destination accepts changes again"
                );
            }
            value.cursor = Some(cursor.to_string());
            value.delivered += accepted;
            value.last_delivered_at = (accepted > 0).then_some(now).or(value.last_delivered_at);
            (value.failures, value.last_failure) = (0, None);
            if let Some(version) = destination::save(&*self.store, name, &state).await? {
                return Ok(Some(Versioned { version, ..state }));
            }
            state = destination::find(&*self.store, name).await?;
            let is_own = state.value.lease.is_of(&self.process);
            if state.value.cursor != before || !is_own {
                return Ok(None);
            }
        }
    }

    /// Stores a failed attempt, and returns how long to wait.
    async fn failed(
        &self,
        mut state: Versioned<Destination>,
        error: &PostError,
    ) -> Result<Duration, StoreError> {
        let name = &self.config.name;
        if state.value.failures == 0 {
            tracing::warn!(destination = name, error = %error, "a destination does not accept a change; it is posted again with growing pauses");
        }
        let delay = DESTINATION.delay(state.value.failures);
        state.value.failures = state.value.failures.saturating_add(1);
        state.value.last_failure = Some(error.to_string());
        state.value.retry_at = self.store.now().await?.plus(delay);
        // If a command has changed the destination, the next step posts again at once.
        destination::save(&*self.store, name, &state).await?;
        Ok(Duration::ZERO)
    }
}
