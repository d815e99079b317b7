//! Encodes a commit as the arguments of `commit.lua`.
//!
//! Invariant: every key that the script touches is in `KEYS`, as Redis requires. The JSON text
//! refers to each key by its index. Versions and times are strings, because Lua would round large
//! numbers. Due times are in milliseconds since the UNIX epoch, and durations in milliseconds.

use std::time::Duration;

use model::page::Status;
use model::polling::MAX_DUE_AHEAD;
use model::queue_name::QueueName;
use model::time::HostTime;
use serde::Serialize;

use super::page_indexes::status_key;
use super::reply::{
    PREFIX, due_key, feed_changes_key, feed_key, feed_position_key, history_key, index_key,
    page_index_key, page_key, record_key,
};
use crate::store::{
    Commit, DueWrite, FeedEntry, HistoryEntry, MAX_FEED, MAX_HISTORY, PageWrite, RecordKey,
    RecordWrite, codec,
};

/// A due time is never lowered to an earlier time than this after the commit, on this host's clock. If
/// the clock of Redis is days behind, subjects would otherwise be due again at once, for ever.
const MIN_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The arguments of one call of `commit.lua`.
pub(super) struct Payload {
    /// The keys that the script touches.
    pub(super) keys: Vec<String>,
    /// The commit as JSON.
    pub(super) commit: String,
}

/// A commit in the form that the script reads. It refers to keys by their index in `KEYS`.
#[derive(Serialize)]
struct Wire<'a> {
    expect: Vec<WireExpect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<WirePage<'a>>,
    records: Vec<WireRecord<'a>>,
    due: Vec<WireDue>,
    max_due_ahead: String,
    earliest_limit: String,
}

/// The version that a Page or record must have.
#[derive(Serialize)]
struct WireExpect {
    key: usize,
    version: String,
}

/// The write of a Page. It is in the index of its status and in none of the others. `max_history` and `max_feed` limit the history and the change feed;
/// `delete_history` is set for an erased Page.
#[derive(Serialize)]
struct WirePage<'a> {
    id: &'a str,
    key: usize,
    index: usize,
    status_index: usize,
    page_index: usize,
    other_status_indexes: Vec<usize>,
    history: usize,
    feed: usize,
    feed_position: usize,
    feed_changes: usize,
    attributes: codec::Attributes,
    delete_history: bool,
    entries: Vec<String>,
    max_history: usize,
    feed_entry: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    changes: String,
    max_feed: u64,
}

/// The write of a record. `op` is `put`, `delete` or `add`.
#[derive(Serialize)]
struct WireRecord<'a> {
    op: &'static str,
    id: &'a str,
    key: usize,
    index: usize,
    expiry: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
}

/// The write of a due time. The subject is removed from the due indexes in `others`.
#[derive(Serialize)]
struct WireDue {
    subject: String,
    others: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
}

/// The keys of a commit, each once.
#[derive(Default)]
struct Keys(Vec<String>);

impl Keys {
    /// Returns the index of `key`, from 1 as in Lua. Adds the key if it is new.
    fn index(&mut self, key: String) -> usize {
        let position = self
            .0
            .iter()
            .position(|existing| *existing == key)
            .unwrap_or_else(|| {
                self.0.push(key);
                self.0.len() - 1
            });
        position + 1
    }
}

impl Payload {
    /// Returns the arguments for a commit that is made at `now`, on this host's clock.
    pub(super) fn new(commit: &Commit, now: HostTime) -> Self {
        let mut keys = Keys::default();
        let mut expect: Vec<WireExpect> = Vec::new();
        if let Some(PageWrite { id, expected, .. }) = &commit.page {
            expect.push(WireExpect {
                key: keys.index(page_key(id)),
                version: expected.to_string(),
            });
        }
        let mut expect_record = |keys: &mut Keys, key: &RecordKey, version: u64| {
            expect.push(WireExpect {
                key: keys.index(record_key(key)),
                version: version.to_string(),
            });
        };
        for guard in &commit.guards {
            expect_record(&mut keys, &guard.key, guard.version);
        }
        for write in &commit.records {
            if let RecordWrite::Put {
                key,
                expected: Some(version),
                ..
            }
            | RecordWrite::Delete {
                key,
                expected: Some(version),
            } = write
            {
                expect_record(&mut keys, key, *version);
            }
        }
        let page = commit.page.as_ref().map(|write| page(write, &mut keys));
        let records = commit
            .records
            .iter()
            .map(|write| record(write, &mut keys))
            .collect();
        let due = commit
            .due
            .iter()
            .map(|write| due(write, &mut keys))
            .collect();
        let commit = codec::to_json(&Wire {
            expect,
            page,
            records,
            due,
            max_due_ahead: MAX_DUE_AHEAD.as_millis().to_string(),
            earliest_limit: now.plus(MIN_LIMIT).to_string(),
        });
        Self {
            keys: keys.0,
            commit,
        }
    }
}

fn page<'a>(write: &'a PageWrite, keys: &mut Keys) -> WirePage<'a> {
    let version = write.expected + 1;
    let entry = FeedEntry::new(write);
    WirePage {
        id: write.id.as_str(),
        key: keys.index(page_key(&write.id)),
        index: keys.index(format!("{PREFIX}:pages")),
        status_index: keys.index(status_key(write.page.status)),
        page_index: keys.index(page_index_key()),
        other_status_indexes: Status::ALL
            .into_iter()
            .filter(|status| *status != write.page.status)
            .map(|status| keys.index(status_key(status)))
            .collect(),
        history: keys.index(history_key(&write.id)),
        feed: keys.index(feed_key()),
        feed_position: keys.index(feed_position_key()),
        feed_changes: keys.index(feed_changes_key()),
        attributes: codec::encode(&write.page),
        delete_history: write.page.status == Status::Erased,
        entries: write
            .changes
            .iter()
            .map(|change| codec::to_json(&HistoryEntry::new(change, write.received_at, version)))
            .collect(),
        max_history: MAX_HISTORY,
        feed_entry: codec::to_json(&entry),
        client: write.page.client.as_deref(),
        changes: codec::to_json(&entry.changes),
        max_feed: MAX_FEED,
    }
}

fn record<'a>(write: &'a RecordWrite, keys: &mut Keys) -> WireRecord<'a> {
    let (op, key, body, ttl, n) = match write {
        RecordWrite::Put { key, body, ttl, .. } => (
            "put",
            key,
            Some(body.to_string()),
            ttl.map(|ttl| ttl.as_millis().to_string()),
            None,
        ),
        RecordWrite::Delete { key, .. } => ("delete", key, None, None, None),
        RecordWrite::Add { key, n } => ("add", key, None, None, Some(n.to_string())),
    };
    WireRecord {
        op,
        id: &key.id,
        key: keys.index(record_key(key)),
        index: keys.index(index_key(key.kind)),
        expiry: keys.index(format!("{PREFIX}:expiry:{}", key.kind.name())),
        body,
        ttl,
        n,
    }
}

fn due(write: &DueWrite, keys: &mut Keys) -> WireDue {
    let queue_name = write.due.map(|(queue_name, _)| queue_name);
    let others = QueueName::POLLS
        .into_iter()
        .filter(|other| Some(*other) != queue_name);
    WireDue {
        subject: write.subject.to_string(),
        others: others.map(|other| keys.index(due_key(other))).collect(),
        queue: queue_name.map(|queue_name| keys.index(due_key(queue_name))),
        at: write.due.map(|(_, at)| at.to_string()),
    }
}
