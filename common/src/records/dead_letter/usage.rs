//! The number and the size of the stored dead letters, and the limits of both.
//!
//! Beyond a limit, one dead letter of each kind of reason is stored as a sample, and the other jobs
//! are only counted. Without a limit, one webhook field whose form Facebook changes would fill the
//! store.
//!
//! Invariant: the counts are kept for each day on which jobs failed, because dead letters expire
//! [`RETENTION`] after that day. A count is changed in the commit that creates or removes the dead
//! letter. After a dead letter has expired, it is counted until its day ends.

use std::collections::BTreeMap;
use std::time::Duration;

use model::job::Job;
use model::time::HostTime;
use serde::Deserialize;
use serde_json::Value as Json;

use super::record::{DeadLetter, RETENTION, is_erasure, put_writes};
use crate::records::{load_chunk, write_records};
use crate::store::{RecordKey, RecordKind, RecordWrite, Store, StoreError, Versioned};

/// How many dead letters are stored before further ones are only counted.
pub const MAX_DEAD_LETTERS: u64 = 10_000;
/// How many bytes the stored dead letters have before further ones are only counted.
pub const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// How many kinds of reasons have a sample and a count of their own beyond the limits.
pub const MAX_SAMPLES: usize = 20;
/// The name under which jobs with a further kind of reason are counted.
const OTHER_REASONS: &str = "other reasons";
/// The length of a kind of reason, in characters.
const MAX_REASON: usize = 100;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many dead letters are stored, and how many jobs were only counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// The number of stored dead letters.
    pub count: u64,
    /// The size of the stored dead letters, in bytes of their jobs and reasons.
    pub bytes: u64,
    /// How often a job failed for good and was only counted, by kind of reason. A job that is
    /// executed again is counted again.
    pub not_stored: BTreeMap<String, u64>,
}

/// What a record counts.
#[derive(Debug, PartialEq, Eq)]
enum Counted<'a> {
    DeadLetters,
    Bytes,
    /// The jobs with this kind of reason of which only the number is stored.
    NotStored(&'a str),
}

impl Usage {
    /// Loads the counts.
    pub async fn load(store: &dyn Store, now: HostTime) -> Result<Self, StoreError> {
        let (mut count, mut bytes, mut not_stored) = (0_i64, 0_i64, BTreeMap::new());
        let mut after = None;
        while let Some(chunk) = next_counts(store, &mut after).await? {
            for (id, Versioned { value, .. }) in chunk {
                let Some((_, counted)) = parse_id(&id).filter(|(day, _)| is_retained(*day, now))
                else {
                    continue;
                };
                let n = value.as_i64().unwrap_or(0);
                match counted {
                    Counted::DeadLetters => count = count.saturating_add(n),
                    Counted::Bytes => bytes = bytes.saturating_add(n),
                    Counted::NotStored(reason) => {
                        let total: &mut u64 = not_stored.entry(reason.to_owned()).or_default();
                        *total = total.saturating_add(n.unsigned_abs());
                    }
                }
            }
        }
        Ok(Self {
            count: u64::try_from(count).unwrap_or(0),
            bytes: u64::try_from(bytes).unwrap_or(0),
            not_stored,
        })
    }

    /// Returns whether a limit is reached, so that further jobs are only counted.
    pub fn is_full(&self) -> bool {
        self.count >= MAX_DEAD_LETTERS || self.bytes >= MAX_BYTES
    }

    /// Returns whether the new dead letter of `job` is stored, and the writes that store the dead
    /// letter or only count it. The writes are stale if the job has a dead letter already. The dead
    /// letter of an erasure is always stored.
    pub fn admit(&mut self, job: &Job, dead_letter: &DeadLetter) -> (bool, Vec<RecordWrite>) {
        let mut writes = Vec::new();
        if self.is_full() && !is_erasure(job) {
            let (is_sample, write) = self.count_only(dead_letter);
            if !is_sample {
                return (false, vec![write]);
            }
            writes.push(write);
        }
        self.count += 1;
        self.bytes += size(dead_letter).unsigned_abs();
        let (id, now) = (dead_letter.id(), dead_letter.failed_at);
        writes.extend(put_writes(&id, dead_letter, Some(0), now));
        writes.extend(add_writes(dead_letter));
        (true, writes)
    }

    /// Counts a job of which no dead letter is stored, unless it is the first one with this kind of
    /// reason. Returns whether it is, and the write of the count.
    fn count_only(&mut self, dead_letter: &DeadLetter) -> (bool, RecordWrite) {
        let mut reason = kind_of_reason(&dead_letter.reason);
        let is_known = self.not_stored.contains_key(&reason);
        let is_sample = !is_known && self.not_stored.len() < MAX_SAMPLES;
        if !is_known && !is_sample {
            OTHER_REASONS.clone_into(&mut reason);
        }
        let n = i64::from(!is_sample);
        let write = add_write(dead_letter.failed_at, &Counted::NotStored(&reason), n);
        *self.not_stored.entry(reason).or_default() += n.unsigned_abs();
        (is_sample, write)
    }
}

/// Deletes the counts of jobs of which no dead letter is stored.
pub async fn forget_not_stored(store: &dyn Store) -> Result<(), StoreError> {
    delete_counts(store, |_, counted| matches!(counted, Counted::NotStored(_))).await
}

/// Deletes the counts of the days whose dead letters have expired, by the clock of the store.
pub async fn prune(store: &dyn Store) -> Result<(), StoreError> {
    let now = store.now().await?;
    delete_counts(store, |day, _| !is_retained(day, now)).await
}

async fn delete_counts(
    store: &dyn Store,
    is_chosen: impl Fn(u64, &Counted<'_>) -> bool,
) -> Result<(), StoreError> {
    let mut after = None;
    while let Some(chunk) = next_counts(store, &mut after).await? {
        let chosen = chunk
            .into_iter()
            .filter(|(id, _)| parse_id(id).is_some_and(|(day, counted)| is_chosen(day, &counted)));
        let deletes: Vec<RecordWrite> = chosen
            .map(|(id, _)| RecordWrite::Delete {
                key: RecordKey::new(RecordKind::DeadLetterCount, id),
                expected: None,
            })
            .collect();
        if !deletes.is_empty() {
            write_records(store, deletes).await?;
        }
    }
    Ok(())
}

async fn next_counts(
    store: &dyn Store,
    after: &mut Option<String>,
) -> Result<Option<Vec<(String, Versioned<Json>)>>, StoreError> {
    load_chunk(store, RecordKind::DeadLetterCount, "", after).await
}

/// Returns the writes that add a dead letter to the counts.
pub(super) fn add_writes(dead_letter: &DeadLetter) -> [RecordWrite; 2] {
    change_writes(dead_letter.failed_at, 1, size(dead_letter))
}

/// Returns the writes that subtract a dead letter from the counts. There are none for one of a newer
/// version whose parts have another form.
pub(super) fn remove_writes(stored: &Json) -> Vec<RecordWrite> {
    /// The parts that every version has.
    #[derive(Deserialize)]
    struct Parts {
        job: String,
        reason: String,
        failed_at: HostTime,
    }
    let Ok(parts) = Parts::deserialize(stored) else {
        return Vec::new();
    };
    let size = signed(parts.job.len() + parts.reason.len());
    change_writes(parts.failed_at, -1, -size).to_vec()
}

/// Returns the writes after which the counts agree with a dead letter that gets another reason.
pub(super) fn replace_writes(dead_letter: &DeadLetter, reason: &str) -> [RecordWrite; 2] {
    let difference = signed(reason.len()) - signed(dead_letter.reason.len());
    change_writes(dead_letter.failed_at, 0, difference)
}

fn change_writes(failed_at: HostTime, n: i64, bytes: i64) -> [RecordWrite; 2] {
    [(Counted::DeadLetters, n), (Counted::Bytes, bytes)]
        .map(|(counted, n)| add_write(failed_at, &counted, n))
}

/// Returns the size of a dead letter, in bytes of its job and its reason.
fn size(dead_letter: &DeadLetter) -> i64 {
    signed(dead_letter.job.len() + dead_letter.reason.len())
}

fn signed(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn add_write(failed_at: HostTime, counted: &Counted<'_>, n: i64) -> RecordWrite {
    let day = day_of(failed_at);
    let id = match counted {
        Counted::DeadLetters => format!("{day}.count"),
        Counted::Bytes => format!("{day}.bytes"),
        Counted::NotStored(reason) => format!("{day}.not_stored.{reason}"),
    };
    let key = RecordKey::new(RecordKind::DeadLetterCount, id);
    RecordWrite::Add { key, n }
}

/// Returns the day and the meaning of a count, or `None` if a newer version wrote it.
fn parse_id(id: &str) -> Option<(u64, Counted<'_>)> {
    let (day, counted) = id.split_once('.')?;
    let counted = match counted {
        "count" => Counted::DeadLetters,
        "bytes" => Counted::Bytes,
        _ => Counted::NotStored(counted.strip_prefix("not_stored.")?),
    };
    Some((day.parse().ok()?, counted))
}

/// Returns the number of the day in UTC.
fn day_of(time: HostTime) -> u64 {
    time.0 / 1000 / DAY.as_secs()
}

/// Returns whether dead letters of a day can be stored at `now`. A host whose clock was wrong may have
/// counted for a later day.
fn is_retained(day: u64, now: HostTime) -> bool {
    let (today, days) = (day_of(now), RETENTION.as_secs() / DAY.as_secs());
    (today.saturating_sub(days)..=today + 1).contains(&day)
}

/// Returns the part of a reason that jobs with the same fault have in common: its beginning, in
/// which `#` replaces each number.
fn kind_of_reason(reason: &str) -> String {
    let mut kind = String::new();
    for c in reason.chars().take(MAX_REASON) {
        if !c.is_ascii_digit() {
            kind.push(c);
        } else if !kind.ends_with('#') {
            kind.push('#');
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::id::UserId;
    use model::job::{ErasureRequest, Unreadable, decode_job, encode_job};

    const NOW: HostTime = HostTime(1_790_000_000_000);

    fn admit(usage: &mut Usage, reason: &str) -> bool {
        let job = Job::Unreadable(Unreadable {
            body: b"{}".to_vec(),
            reason: reason.to_owned(),
            received_at: NOW,
        });
        usage.admit(&job, &DeadLetter::new(&job, reason, NOW)).0
    }

    fn full() -> [Usage; 2] {
        let (count, bytes) = (MAX_DEAD_LETTERS, MAX_BYTES);
        let (by_count, by_bytes) = (
            Usage {
                count,
                ..Usage::default()
            },
            Usage {
                bytes,
                ..Usage::default()
            },
        );
        [by_count, by_bytes]
    }

    #[test]
    fn below_the_limits_every_dead_letter_is_stored() {
        let mut usage = Usage {
            count: MAX_DEAD_LETTERS - 2,
            bytes: MAX_BYTES - 200,
            ..Usage::default()
        };
        assert!(admit(&mut usage, "entry 1 has no id"));
        assert!(admit(&mut usage, "entry 1 has no id"));
        assert!(
            admit(&mut usage, "entry 1 has no id"),
            "the first one beyond a limit is a sample"
        );
        assert!(!admit(&mut usage, "entry 1 has no id"));
        assert_eq!(
            usage.not_stored,
            BTreeMap::from([("entry # has no id".to_owned(), 1)])
        );
    }

    #[test]
    fn beyond_a_limit_a_sample_of_each_kind_of_reason_is_stored() {
        for mut usage in full() {
            assert!(admit(&mut usage, "entry 12 has no id"));
            assert!(!admit(&mut usage, "entry 3 has no id"));
            assert!(admit(&mut usage, "entry 3 has no time"));
            for n in 0..MAX_SAMPLES {
                let letter = char::from(b'a' + u8::try_from(n).unwrap());
                let is_sample = admit(&mut usage, &format!("another reason {letter}"));
                assert_eq!(is_sample, n < MAX_SAMPLES - 2, "reason {n}");
            }
            assert_eq!(usage.not_stored["entry # has no id"], 1);
            assert_eq!(usage.not_stored["entry # has no time"], 0);
            assert_eq!(usage.not_stored[OTHER_REASONS], 2);
        }
    }

    #[test]
    fn the_dead_letter_of_an_erasure_is_always_stored() {
        let erasure = Job::Erase(ErasureRequest {
            user: UserId::parse("7").unwrap(),
            confirmation_hash: None,
            requested_at: NOW,
            issued_at: None,
        });
        let newer = encode_job(&erasure).replacen("\"v\":", "\"v\":9", 1);
        let newer = decode_job(&newer);
        assert!(matches!(newer, Job::Unreadable(_)), "{newer:?}");
        for mut usage in full() {
            for job in [&erasure, &erasure, &newer, &newer] {
                let dead_letter = DeadLetter::new(job, "a reason", NOW);
                assert!(usage.admit(job, &dead_letter).0);
            }
        }
    }

    #[test]
    fn the_counts_of_a_day_end_with_its_dead_letters() {
        let day = day_of(NOW);
        assert!(is_retained(day, NOW.plus(RETENTION)));
        assert!(!is_retained(day, NOW.plus(RETENTION + DAY)));
        assert!(is_retained(day + 1, NOW) && !is_retained(day + 2, NOW));
        for counted in [
            Counted::DeadLetters,
            Counted::Bytes,
            Counted::NotStored("a.b # c"),
        ] {
            let RecordWrite::Add { key, .. } = add_write(NOW, &counted, 1) else {
                panic!("a count is added to");
            };
            assert_eq!(parse_id(&key.id), Some((day, counted)));
        }
        assert_eq!(parse_id("x.count"), None);
    }
}
