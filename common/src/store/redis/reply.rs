//! Builds the keys in Redis and decodes its replies.
//!
//! Invariant: a reply of an unexpected form is an error or a corrupt Page, and never a panic.

use std::collections::BTreeMap;

use model::id::PageId;
use model::queue_name::QueueName;
use model::time::HostTime;
use redis::{RedisError, RedisResult, Value as Reply, from_redis_value};
use serde_json::Value as Json;

use crate::store::{
    CommitOutcome, CorruptPage, DueEntry, RecordKey, RecordKind, StoreError, StoredPage, Versioned,
    codec,
};

/// The beginning of every key: a hash tag, which places all keys in one hash slot of a cluster.
pub(super) const PREFIX: &str = "{pagesync}";

/// Returns the key of the hash with the epoch and the layout of the database.
pub(super) fn meta_key() -> String {
    format!("{PREFIX}:meta")
}

/// Returns the key of the hash with a Page.
pub(super) fn page_key(id: &PageId) -> String {
    format!("{PREFIX}:page:{id}")
}

/// Returns the key of the list with the history of a Page.
pub(super) fn history_key(id: &PageId) -> String {
    format!("{PREFIX}:history:{id}")
}

/// Returns the key of the stream with the change feed.
pub(super) fn feed_key() -> String {
    format!("{PREFIX}:feed")
}

/// Returns the key of the number of the last entry of the change feed.
pub(super) fn feed_position_key() -> String {
    format!("{PREFIX}:feed_position")
}

/// Returns the key of the hash with the changed values of the entries of the change feed.
pub(super) fn feed_changes_key() -> String {
    format!("{PREFIX}:feed_changes")
}

/// Returns the key of the sorted set that lists Pages by client and by connection.
pub(super) fn page_index_key() -> String {
    format!("{PREFIX}:page_index")
}

/// Returns the key of the sorted set with the subjects of a queue by due time.
pub(super) fn due_key(queue_name: QueueName) -> String {
    format!("{PREFIX}:due:{queue_name}")
}

/// Returns the key of the hash with a record.
pub(super) fn record_key(key: &RecordKey) -> String {
    format!("{PREFIX}:record:{}:{}", key.kind.name(), key.id)
}

/// Returns the key of the sorted set with the ids of all records of a kind.
pub(super) fn index_key(kind: RecordKind) -> String {
    format!("{PREFIX}:records:{}", kind.name())
}

/// Returns the first eight characters of the run id of a server from the section `server` of `INFO`.
pub(super) fn run_id(info: &str) -> &str {
    let id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    id.map_or("", |id| id.get(..8).unwrap_or(id))
}

/// Decodes the reply of `commit.lua`.
pub(super) fn outcome(reply: Reply) -> Result<CommitOutcome, StoreError> {
    match parse::<String>(Some(reply))?.as_str() {
        "applied" => Ok(CommitOutcome::Applied),
        "stale" => Ok(CommitOutcome::Stale),
        _ => Err(StoreError::Unexpected(
            "the commit script returned an unknown outcome".to_owned(),
        )),
    }
}

/// Converts an error of Redis. Every error means that the store is not available: Redis cannot be
/// reached, is loading its data, is full, or is read-only.
pub(super) fn unavailable(error: &RedisError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Decodes a reply. Fails with [`StoreError::Unexpected`] if it is missing or of another type.
pub(super) fn parse<T: redis::FromRedisValue>(reply: Option<Reply>) -> Result<T, StoreError> {
    let reply = reply.ok_or_else(|| StoreError::Unexpected("a reply is missing".to_owned()))?;
    from_redis_value(reply).map_err(|error| StoreError::Unexpected(error.to_string()))
}

/// Decodes the reply to `HGETALL` for a Page. A key of another type, and attributes that cannot be
/// decoded, result in a corrupt Page and not in an error, so that other Pages can still be loaded.
pub(super) fn stored_page(reply: RedisResult<Reply>) -> Result<Versioned<StoredPage>, StoreError> {
    let corrupt = |version, raw: String, reason: String| Versioned {
        version,
        value: StoredPage::Corrupt(CorruptPage { raw, reason }),
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) if error.code() == Some("WRONGTYPE") => {
            return Ok(corrupt(
                0,
                String::new(),
                "the key does not contain a hash".to_owned(),
            ));
        }
        Err(error) => return Err(unavailable(&error)),
    };
    let bytes: BTreeMap<Vec<u8>, Vec<u8>> = parse(Some(reply))?;
    if bytes.is_empty() {
        return Ok(Versioned {
            version: 0,
            value: StoredPage::Unknown,
        });
    }
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    };
    let mut attributes: codec::Attributes = bytes
        .into_iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    let version = attributes
        .remove(codec::VERSION)
        .as_deref()
        .and_then(parse_version);
    let decoded = match version {
        Some(_) => codec::decode(&attributes).map_err(|error| error.to_string()),
        None => Err("the version is missing or is not a number".to_owned()),
    };
    let version = version.unwrap_or(0);
    Ok(match decoded {
        Ok(page) => Versioned {
            version,
            value: StoredPage::Page(Box::new(page)),
        },
        Err(reason) => corrupt(
            version,
            serde_json::to_string(&attributes).unwrap_or_default(),
            reason,
        ),
    })
}

/// An entry of the stream of the change feed.
pub(super) struct StreamEntry {
    /// The number in the id, which is `<position>-0`.
    pub(super) position: u64,
    /// The entry as JSON.
    pub(super) entry: String,
    /// The client before the changes, if it is another one.
    pub(super) former_client: Option<String>,
}

/// Returns an entry of the stream from its id and its fields.
pub(super) fn stream_entry((id, fields): (String, Vec<String>)) -> Result<StreamEntry, StoreError> {
    let invalid =
        || StoreError::Unexpected("an entry of the change feed has another form".to_owned());
    let position = id
        .split_once('-')
        .and_then(|(position, _)| position.parse().ok());
    let mut fields = fields.into_iter();
    let (_, entry) = (fields.next(), fields.next().ok_or_else(invalid)?);
    let former_client = fields.nth(1);
    Ok(StreamEntry {
        position: position.ok_or_else(invalid)?,
        entry,
        former_client,
    })
}

/// Decodes the reply to `HMGET _version body` for a record; `None` if the record does not exist. A
/// key of another type, and attributes that cannot be decoded, result in a body that is the form of
/// no record, so that other records can still be loaded.
pub(super) fn stored_record(
    reply: RedisResult<Reply>,
) -> Result<Option<Versioned<Json>>, StoreError> {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) if error.code() == Some("WRONGTYPE") => {
            let value = Json::String("the key does not contain a hash".to_owned());
            return Ok(Some(Versioned { version: 0, value }));
        }
        Err(error) => return Err(unavailable(&error)),
    };
    let (version, body): (Option<Vec<u8>>, Option<Vec<u8>>) = parse(Some(reply))?;
    if version.is_none() && body.is_none() {
        return Ok(None);
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let version = version.map(text).as_deref().and_then(parse_version);
    let value = match version {
        Some(_) => codec::record_body(body.map(text).unwrap_or_default()),
        None => Json::String("the version is missing or is not a number".to_owned()),
    };
    let version = version.unwrap_or(0);
    Ok(Some(Versioned { version, value }))
}

/// Parses a version. `commit.lua` accepts the same texts.
fn parse_version(text: &str) -> Option<u64> {
    let is_version = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    is_version.then(|| text.parse().ok()).flatten()
}

/// Decodes entries of the due index from a reply in which subjects and scores alternate.
pub(super) fn due_entries(reply: Vec<String>) -> Result<Vec<DueEntry>, StoreError> {
    let invalid = || StoreError::Unexpected("a score is not a number".to_owned());
    let mut texts = reply.into_iter();
    let mut entries = Vec::new();
    while let (Some(subject), Some(score)) = (texts.next(), texts.next()) {
        let score: f64 = score.parse().map_err(|_| invalid())?;
        entries.push(DueEntry::new(subject, time_of_score(score)));
    }
    Ok(entries)
}

/// Returns the due time that a score represents.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "scores are whole, positive milliseconds"
)]
fn time_of_score(score: f64) -> HostTime {
    HostTime(score as u64)
}
