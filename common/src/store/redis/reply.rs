//! Keys, and what the server's replies mean.

use std::collections::BTreeMap;

use model::id::PageId;
use model::queue_name::QueueName;
use model::time::HostTime;
use redis::{RedisError, RedisResult, Value as Reply, from_redis_value};

use crate::store::{
    CommitOutcome, CorruptPage, FeedEntry, RecordKey, RecordKind, StoreError, StoredPage,
    Versioned, codec,
};

pub(super) const PREFIX: &str = "{pagesync}";

/// The hash with the epoch and the layout of the database.
pub(super) fn meta_key() -> String {
    format!("{PREFIX}:meta")
}

pub(super) fn page_key(id: &PageId) -> String {
    format!("{PREFIX}:page:{id}")
}

pub(super) fn history_key(id: &PageId) -> String {
    format!("{PREFIX}:history:{id}")
}

pub(super) fn feed_key() -> String {
    format!("{PREFIX}:feed")
}

pub(super) fn feed_position_key() -> String {
    format!("{PREFIX}:feed_position")
}

pub(super) fn due_key(queue_name: QueueName) -> String {
    format!("{PREFIX}:due:{queue_name}")
}

pub(super) fn record_key(key: &RecordKey) -> String {
    format!("{PREFIX}:record:{}:{}", key.kind.name(), key.id)
}

pub(super) fn index_key(kind: RecordKind) -> String {
    format!("{PREFIX}:records:{}", kind.name())
}

pub(super) fn outcome(reply: Reply) -> Result<CommitOutcome, StoreError> {
    match parse::<String>(Some(reply))?.as_str() {
        "applied" => Ok(CommitOutcome::Applied),
        "stale" => Ok(CommitOutcome::Stale),
        _ => Err(StoreError::Unexpected(
            "the commit script gave another answer than its own".to_owned(),
        )),
    }
}

/// Any error of Redis means that it cannot do what it must: it is away, loading, full, read-only.
pub(super) fn unavailable(error: &RedisError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

pub(super) fn parse<T: redis::FromRedisValue>(reply: Option<Reply>) -> Result<T, StoreError> {
    let reply = reply.ok_or_else(|| StoreError::Unexpected("an answer is missing".to_owned()))?;
    from_redis_value(reply).map_err(|error| StoreError::Unexpected(error.to_string()))
}

/// What stands under a Page's key. Bytes that are not text, another type of key, attributes that do
/// not fit: the Page is corrupt, its neighbours are not.
pub(super) fn stored(answer: RedisResult<Reply>) -> Result<Versioned<StoredPage>, StoreError> {
    let corrupt = |version, raw: String, reason: String| Versioned {
        version,
        value: StoredPage::Corrupt(CorruptPage { raw, reason }),
    };
    let reply = match answer {
        Ok(reply) => reply,
        Err(error) if error.code() == Some("WRONGTYPE") => {
            return Ok(corrupt(
                0,
                String::new(),
                "the key holds something else than a hash".to_owned(),
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
    // Exactly what the script takes for a version.
    let plain =
        |version: &String| version.bytes().all(|b| b.is_ascii_digit()) && !version.starts_with('0');
    let version = attributes
        .remove(codec::VERSION)
        .filter(plain)
        .and_then(|version| version.parse().ok());
    let decoded = match version {
        Some(_) => codec::decode(&attributes).map_err(|error| error.to_string()),
        None => Err("the version is missing or no number".to_owned()),
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

pub(super) fn feed_entry(
    (id, fields): (String, Vec<String>),
) -> Result<(u64, FeedEntry), StoreError> {
    let odd = || StoreError::Unexpected("a feed entry that is none".to_owned());
    let n = id
        .split_once('-')
        .and_then(|(n, _)| n.parse().ok())
        .ok_or_else(odd)?;
    let entry = fields.get(1).ok_or_else(odd)?;
    Ok((n, codec::from_json(entry)?))
}

pub(super) fn pairs(flat: Vec<String>) -> Result<Vec<(String, f64)>, StoreError> {
    let odd = || StoreError::Unexpected("a score that is no number".to_owned());
    let mut flat = flat.into_iter();
    let mut pairs = Vec::new();
    while let (Some(member), Some(score)) = (flat.next(), flat.next()) {
        pairs.push((member, score.parse().map_err(|_| odd())?));
    }
    Ok(pairs)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "scores are milliseconds, whole and positive"
)]
pub(super) fn millis(score: f64) -> HostTime {
    HostTime(score as u64)
}
