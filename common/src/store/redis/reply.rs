//! Builds the keys in Redis and decodes its replies.
//!
//! Invariant: a reply of an unexpected form is an error or a corrupt Page, and never a panic.

use std::collections::BTreeMap;

use model::id::PageId;
use model::queue_name::QueueName;
use model::time::HostTime;
use redis::{RedisError, RedisResult, Value as Reply, from_redis_value};

use crate::store::{
    CommitOutcome, CorruptPage, FeedEntry, RecordKey, RecordKind, StoreError, StoredPage,
    Versioned, codec,
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
    // `commit.lua` accepts the same texts as a version.
    let is_version =
        |version: &String| version.bytes().all(|b| b.is_ascii_digit()) && !version.starts_with('0');
    let version = attributes
        .remove(codec::VERSION)
        .filter(is_version)
        .and_then(|version| version.parse().ok());
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

/// Decodes an entry of the stream of the change feed. Its id is `<position>-0`.
pub(super) fn feed_entry(
    (id, fields): (String, Vec<String>),
) -> Result<(u64, FeedEntry), StoreError> {
    let invalid =
        || StoreError::Unexpected("an entry of the change feed has another form".to_owned());
    let position = id
        .split_once('-')
        .and_then(|(position, _)| position.parse().ok())
        .ok_or_else(invalid)?;
    let entry = fields.get(1).ok_or_else(invalid)?;
    Ok((position, codec::from_json(entry)?))
}

/// Returns the members of a sorted set with their scores, from a reply in which they alternate.
pub(super) fn scored_members(reply: Vec<String>) -> Result<Vec<(String, f64)>, StoreError> {
    let invalid = || StoreError::Unexpected("a score is not a number".to_owned());
    let mut texts = reply.into_iter();
    let mut members = Vec::new();
    while let (Some(member), Some(score)) = (texts.next(), texts.next()) {
        members.push((member, score.parse().map_err(|_| invalid())?));
    }
    Ok(members)
}

/// Returns the due time that a score represents.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "scores are whole, positive milliseconds"
)]
pub(super) fn time_of_score(score: f64) -> HostTime {
    HostTime(score as u64)
}
