//! Reads the change feed, and deletes the values of erased Pages from it.
//!
//! Invariant: a reader receives the entries after its cursor without a gap, or learns that it must load
//! all Pages. The entries are in a stream, and their values in a hash, because deleted entries of a
//! stream stay in its memory and in the append-only file.

use model::page::Status;
use redis::{Pipeline, Value as Reply};

use super::client::RedisStore;
use super::page_indexes::status_key;
use super::reply::{
    StreamEntry, feed_changes_key, feed_key, feed_position_key, meta_key, parse, run_id,
    stream_entry,
};
use crate::store::{Changes, Cursor, FeedEntry, MAX_FEED, StoreError};

/// How many entries are read at once to find those of erased Pages.
const CHUNK: usize = 1000;

impl RedisStore {
    /// Returns up to `limit` entries after a cursor, as [`crate::store::Store::changes_after`] does.
    pub(super) async fn feed_after(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Changes, StoreError> {
        let from = match cursor {
            Some(cursor) => cursor.position,
            // Redis retains a few more entries than their values.
            None => self.feed_end().await?.position.saturating_sub(MAX_FEED),
        };
        let mut pipeline = redis::pipe();
        // A transaction makes the replies describe the same state of the database.
        add_position(pipeline.atomic());
        add_range(&mut pipeline, from, limit);
        let mut replies = self.query_all(&mut pipeline).await?.into_iter();
        let end = self.end_of(&mut replies).await?;
        let mut entries = parse_entries(replies.next())?;
        let first = end.position.saturating_sub(MAX_FEED);
        let is_trimmed = cursor.is_some_and(|cursor| {
            let missing = entries.first().map_or(from != end.position, |entry| {
                entry.position != from.saturating_add(1)
            });
            cursor.epoch != end.epoch || missing || from < first
        });
        if is_trimmed {
            return Ok(Changes::Trimmed(end));
        }
        entries.retain(|entry| entry.position > first);
        let changes = self.changes_of(&entries).await?;
        let decode = |(stream, changes): (StreamEntry, Option<String>)| {
            let (epoch, position) = (end.epoch.clone(), stream.position);
            let entry = FeedEntry::decode(&stream.entry, changes.as_deref(), stream.former_client)?;
            Ok((Cursor { epoch, position }, entry))
        };
        let decoded: Result<Vec<_>, StoreError> =
            entries.into_iter().zip(changes).map(decode).collect();
        Ok(Changes::Entries(decoded?))
    }

    /// Returns the cursor after the newest entry.
    pub(super) async fn feed_end(&self) -> Result<Cursor, StoreError> {
        let mut pipeline = redis::pipe();
        add_position(pipeline.atomic());
        let replies = self.query_all(&mut pipeline).await?;
        self.end_of(&mut replies.into_iter()).await
    }

    /// Decodes the replies to the commands of [`add_position`].
    async fn end_of(
        &self,
        replies: &mut impl Iterator<Item = Reply>,
    ) -> Result<Cursor, StoreError> {
        let epoch: Option<String> = parse(replies.next())?;
        let position: Option<u64> = parse(replies.next())?;
        // After a crash, Redis may have lost the last entries and number others like them. Each start
        // of Redis has another run id, so that a cursor of an earlier start is recognized.
        let info: String = parse(replies.next())?;
        let epoch = match epoch {
            Some(epoch) => epoch,
            None => self.epoch().await?,
        };
        Ok(Cursor {
            epoch: format!("{epoch}-{}", run_id(&info)),
            position: position.unwrap_or(0),
        })
    }

    /// Returns the values of each entry, or `None` if they are not stored.
    async fn changes_of(&self, entries: &[StreamEntry]) -> Result<Vec<Option<String>>, StoreError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        let call = pipeline.cmd("HMGET").arg(feed_changes_key());
        for entry in entries {
            call.arg(entry.position);
        }
        parse(self.query_all(&mut pipeline).await?.pop())
    }

    /// Deletes the values of erased Pages, and waits until this is as durable as a commit.
    pub(super) async fn forget_feed_changes(&self) -> Result<(), StoreError> {
        let mut from = 0;
        loop {
            let mut pipeline = redis::pipe();
            add_range(&mut pipeline, from, CHUNK);
            let entries = parse_entries(self.query_all(&mut pipeline).await?.pop())?;
            let Some(last) = entries.last() else {
                break;
            };
            from = last.position;
            let mut pipeline = Pipeline::with_capacity(entries.len());
            for stream in &entries {
                let entry = FeedEntry::decode(&stream.entry, None, None)?;
                let call = pipeline.cmd("ZSCORE").arg(status_key(Status::Erased));
                call.arg(entry.page.as_str());
            }
            let scores = self.query_all(&mut pipeline).await?;
            let of_erased: Vec<u64> = entries
                .iter()
                .zip(scores)
                .filter(|(_, score)| *score != Reply::Nil)
                .map(|(entry, _)| entry.position)
                .collect();
            if !of_erased.is_empty() {
                let mut pipeline = redis::pipe();
                pipeline.cmd("HDEL").arg(feed_changes_key()).arg(of_erased);
                self.query_all(&mut pipeline).await?;
            }
        }
        crate::store::Store::confirm(self).await
    }
}

/// Adds the commands that read the end of the feed.
fn add_position(pipeline: &mut Pipeline) {
    pipeline.cmd("HGET").arg(meta_key()).arg("epoch");
    pipeline.cmd("GET").arg(feed_position_key());
    pipeline.cmd("INFO").arg("server");
}

/// Adds the command that reads up to `limit` entries after a position.
fn add_range(pipeline: &mut Pipeline, after: u64, limit: usize) {
    let call = pipeline.cmd("XRANGE").arg(feed_key());
    call.arg(format!("({after}-0")).arg("+");
    call.arg("COUNT").arg(limit);
}

fn parse_entries(reply: Option<Reply>) -> Result<Vec<StreamEntry>, StoreError> {
    let entries: Vec<(String, Vec<String>)> = parse(reply)?;
    entries.into_iter().map(stream_entry).collect()
}
