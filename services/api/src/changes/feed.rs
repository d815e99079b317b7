//! Follows the change feed once for all readers of the process.
//!
//! Invariants: each change is encoded once. A reader gets the entries after its cursor in order and
//! without a gap, from the recent entries in memory or from the store. The memory of the recent entries
//! is limited, and nothing is in memory while nobody waits.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use common::lifecycle::Lifecycle;
use common::records::api_key::ApiKey;
use common::store::{Changes, Cursor, FeedEntry, Store, StoreError};
use common::views::page::feed_change_view;
use model::id::PageId;
use model::page::Status;
use tokio::sync::watch;

/// How often the feed is read while somebody waits for changes.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);
/// How often the feed is read while nobody waits. The tags of Pages contain the epoch that this read
/// returns.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// How many entries are read at once.
const CHUNK: usize = 500;
/// The largest number of recent entries.
const MAX_RECENT: usize = 10_000;
/// The largest size of the recent entries, in bytes.
const MAX_RECENT_BYTES: usize = 16 << 20;

/// A change as readers receive it.
#[derive(Debug, Clone)]
pub(crate) struct EncodedChange {
    /// The cursor after the change.
    pub(crate) cursor: Cursor,
    /// The Page.
    pub(crate) page: PageId,
    /// The client of the Page.
    client: Option<String>,
    /// What the keys of the former client see if the Page has another client now: that the Page has left,
    /// and nothing of its new state.
    for_former_client: Option<Arc<EncodedChange>>,
    /// The change as JSON.
    pub(crate) json: Bytes,
    /// The change as an event of an event stream.
    pub(crate) event: Bytes,
}

impl EncodedChange {
    fn new(cursor: Cursor, entry: &FeedEntry) -> Self {
        let former = entry.former_client.as_ref();
        let for_former_client = former.filter(|former| !former.is_empty()).map(|former| {
            let left = FeedEntry {
                client: None,
                status: None,
                fields: Vec::new(),
                source: None,
                changes: Some(Vec::new()),
                ..entry.clone()
            };
            Arc::new(Self {
                client: Some(former.clone()),
                ..Self::encode(cursor.clone(), &left, None)
            })
        });
        Self::encode(cursor, entry, for_former_client)
    }

    fn encode(cursor: Cursor, entry: &FeedEntry, for_former_client: Option<Arc<Self>>) -> Self {
        let view = feed_change_view(&cursor, entry);
        let json = serde_json::to_string(&view)
            .unwrap_or_else(|error| unreachable!("a view encodes: {error}"));
        let head = format!("id: {cursor}\nevent: change\ndata: ");
        let event = Bytes::from(format!("{head}{json}\n\n"));
        Self {
            json: event.slice(head.len()..head.len() + json.len()),
            event,
            cursor,
            page: entry.page.clone(),
            client: entry.client.clone(),
            for_former_client,
        }
    }

    /// Returns the change as the holder of a key may see it, or `None` if they may not.
    pub(crate) fn seen_by<'a>(self: &'a Arc<Self>, key: &ApiKey) -> Option<&'a Arc<Self>> {
        let may_see = |change: &Self| key.may_see(&change.page, change.client.as_deref());
        let left = || {
            self.for_former_client
                .as_ref()
                .filter(|change| may_see(change))
        };
        may_see(self).then_some(self).or_else(left)
    }
}

/// The changes after a cursor.
#[derive(Debug)]
pub(crate) enum Read {
    /// The next changes, at least one unless the cursor is the end of the feed.
    Changes(Vec<Arc<EncodedChange>>),
    /// Entries after the cursor are missing. A reader can go on after this cursor.
    Gone(Cursor),
}

/// The entries that were added last.
#[derive(Debug, Default)]
struct Recent {
    /// The cursor before the first of them; `None` until the feed was read.
    before: Option<Cursor>,
    entries: VecDeque<Arc<EncodedChange>>,
    bytes: usize,
}

impl Recent {
    fn end(&self) -> Option<&Cursor> {
        let last = self.entries.back().map(|change| &change.cursor);
        last.or(self.before.as_ref())
    }

    fn restart(&mut self, at: Cursor) {
        *self = Self {
            before: Some(at),
            ..Self::default()
        };
    }

    fn push(&mut self, change: EncodedChange) {
        self.bytes += change.event.len();
        self.entries.push_back(Arc::new(change));
        while self.entries.len() > MAX_RECENT || self.bytes > MAX_RECENT_BYTES {
            let Some(first) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= first.event.len();
            self.before = Some(first.cursor.clone());
        }
    }

    /// Returns up to `limit` entries after a cursor, or `None` if it lies outside of them.
    fn after(&self, cursor: &Cursor, limit: usize) -> Option<Vec<Arc<EncodedChange>>> {
        let (before, end) = (self.before.as_ref()?, self.end()?);
        let is_inside = cursor.epoch == before.epoch
            && (before.position..=end.position).contains(&cursor.position);
        if !is_inside {
            return None;
        }
        // The numbers of the entries have no gaps.
        let from = usize::try_from(cursor.position - before.position).ok()?;
        Some(
            self.entries
                .iter()
                .skip(from)
                .take(limit)
                .cloned()
                .collect(),
        )
    }
}

/// The change feed of the store.
#[derive(Debug)]
pub(crate) struct Feed {
    store: Arc<dyn Store>,
    recent: RwLock<Recent>,
    /// Changes whenever entries were added or the feed began again.
    added: watch::Sender<()>,
}

impl Feed {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            recent: RwLock::default(),
            added: watch::Sender::new(()),
        }
    }

    /// Returns a receiver that changes when there may be new changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.added.subscribe()
    }

    /// Returns the epoch of the feed, or `None` before it was read for the first time.
    pub(crate) fn epoch(&self) -> Option<String> {
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        recent.before.as_ref().map(|cursor| cursor.epoch.clone())
    }

    /// Returns up to `limit` changes after a cursor, or from the first stored one if it is `None`. Changes
    /// of the last second can be missing; [`Self::subscribe`] tells when they are there.
    pub(crate) async fn read(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Read, StoreError> {
        if let Some(cursor) = after {
            let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(changes) = recent.after(cursor, limit) {
                return Ok(Read::Changes(changes));
            }
        }
        self.read_stored(after, limit).await
    }

    /// Returns changes as [`Self::read`] does, also those that were stored a moment ago.
    pub(crate) async fn read_stored(
        &self,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Read, StoreError> {
        Ok(match self.store.changes_after(after, limit).await? {
            Changes::Trimmed(cursor) => Read::Gone(cursor),
            Changes::Entries(entries) => {
                let encode = |(cursor, entry)| Arc::new(EncodedChange::new(cursor, &entry));
                Read::Changes(entries.into_iter().map(encode).collect())
            }
        })
    }

    /// Returns the cursor after the newest entry.
    pub(crate) async fn newest(&self) -> Result<Cursor, StoreError> {
        self.store.newest_cursor().await
    }

    /// Reads new entries until the process stops. While the store does not answer, readers wait.
    pub(crate) async fn follow(self: Arc<Self>, lifecycle: Lifecycle) -> Result<(), Infallible> {
        let mut has_failed = false;
        loop {
            let read = tokio::select! {
                () = lifecycle.stopping() => return Ok(()),
                read = self.read_new() => read,
            };
            let is_complete = match read {
                Ok(is_complete) => {
                    has_failed = false;
                    is_complete
                }
                Err(error) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::warn!(error = %error, "the change feed cannot be read; its readers wait");
                    }
                    true
                }
            };
            if !is_complete {
                continue;
            }
            let is_awaited = self.added.receiver_count() > 0 && !has_failed;
            let interval = if is_awaited {
                BUSY_INTERVAL
            } else {
                IDLE_INTERVAL
            };
            tokio::select! {
                () = lifecycle.stopping() => return Ok(()),
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Adds the entries after the recent ones. Returns whether these were all. While nobody waits for
    /// changes, it adds none and removes the recent ones, so that an idle process needs no memory for
    /// them.
    async fn read_new(&self) -> Result<bool, StoreError> {
        let end = {
            let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
            recent.end().cloned()
        };
        let Some(end) = end.filter(|_| self.added.receiver_count() > 0) else {
            let newest = self.store.newest_cursor().await?;
            self.change(|recent| recent.restart(newest));
            return Ok(true);
        };
        match self.store.changes_after(Some(&end), CHUNK).await? {
            Changes::Trimmed(newest) => {
                self.change(|recent| recent.restart(newest));
                Ok(true)
            }
            Changes::Entries(entries) if entries.is_empty() => Ok(true),
            Changes::Entries(entries) => {
                let is_complete = entries.len() < CHUNK;
                // The values of an erased Page must not stay in memory, so the readers of earlier
                // entries go to the store.
                let erases =
                    |(_, entry): &(Cursor, FeedEntry)| entry.status == Some(Status::Erased);
                let erasure = entries.iter().rposition(erases);
                self.change(|recent| {
                    for (at, (cursor, entry)) in entries.into_iter().enumerate() {
                        let restart = (erasure == Some(at)).then(|| cursor.clone());
                        recent.push(EncodedChange::new(cursor, &entry));
                        if let Some(cursor) = restart {
                            recent.restart(cursor);
                        }
                    }
                });
                Ok(is_complete)
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Recent)) {
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut recent);
        drop(recent);
        self.added.send_replace(());
    }
}
