//! The jobs in the queues, and their versioned wire form.
//!
//! A message is a JSON list. Each item is a job in the form `{"v":2,"<kind>":{...}}`.
//!
//! Invariant: [`decode_message`] never fails. A job that it cannot read becomes a
//! [`Job::Unreadable`] with the bytes of the job.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::forward::ForwardedDelivery;
use crate::hex::hex;
use crate::id::{Subject, UserId};
use crate::queue_name::QueueName;
use crate::time::{FacebookTime, HostTime};
use crate::webhook::ProfileEntry;

/// The version of the wire form that this build reads and writes. pagesync 0.1 wrote version 1.
pub const WIRE_VERSION: u64 = 2;
/// The prefix of the reason for a job whose version is newer than [`WIRE_VERSION`].
pub const NEWER_VERSION_PREFIX: &str = "newer version";
/// The reason for a job whose kind or content this build does not know. A later build with the same
/// version may know it.
pub const UNKNOWN_KIND: &str = "the job is not of a kind this build knows";

/// A due poll that one scheduler has claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The subject of the poll.
    pub subject: Subject,
    /// The queue in which the poll was due.
    pub queue: QueueName,
    /// When the poll was due, on this host's clock.
    pub due_at: HostTime,
}

/// Bytes that could not be read. They are stored for an operator, or for a later build that can
/// read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The bytes as they were received.
    pub body: Vec<u8>,
    /// The reason, which describes the shape of the bytes and never repeats them.
    pub reason: String,
    /// When the bytes were received, on this host's clock; 0 if that is not known.
    pub received_at: HostTime,
}

/// A request to erase the data of a person who asked for it or who removed the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureRequest {
    /// The person.
    pub user: UserId,
    /// The hash of the confirmation code that the person got; `None` if the person removed the app.
    pub confirmation_hash: Option<String>,
    /// When the request was made, on this host's clock. It is the earlier of the arrival of the
    /// request and Facebook's `issued_at` plus five minutes, because the two clocks may differ.
    pub requested_at: HostTime,
    /// Facebook's `issued_at`, on Facebook's clock; `None` if the request contained none. A login
    /// whose token was issued later is not affected by the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<FacebookTime>,
}

/// A unit of work for a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// One entry of a webhook.
    Webhook {
        /// The parts of the entry that concern a profile.
        entry: ProfileEntry,
        /// When the webhook was received, on this host's clock.
        received_at: HostTime,
    },
    /// A part of a webhook, or a job, that could not be read.
    Unreadable(Unreadable),
    /// A poll.
    Poll(Claim),
    /// An erasure of the data of a person.
    Erase(ErasureRequest),
    /// A delivery of Facebook that is forwarded to another program.
    Forward(ForwardedDelivery),
}

/// The id of a job, derived from its content: a job that is delivered twice has the same id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(String);

impl JobId {
    /// Returns the id of the job with this wire form.
    pub fn from_encoded(encoded: &str) -> Self {
        let digest = Sha256::digest(encoded.as_bytes());
        Self(hex(&digest[..16]))
    }

    /// Returns the id as 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Serialize, Deserialize)]
struct WireUnreadable {
    received_at: HostTime,
    reason: String,
    body: String,
}

#[derive(Deserialize)]
struct WireJob<'a> {
    #[serde(borrow, default)]
    webhook: Option<WireWebhook<'a>>,
    #[serde(default)]
    unreadable: Option<WireUnreadable>,
    #[serde(default)]
    poll: Option<Claim>,
    #[serde(default)]
    erase: Option<ErasureRequest>,
    #[serde(default)]
    forward: Option<ForwardedDelivery>,
}

#[derive(Deserialize)]
struct WireVersion {
    v: u64,
}

#[derive(Deserialize)]
struct WireWebhook<'a> {
    received_at: HostTime,
    #[serde(borrow)]
    entry: &'a RawValue,
}

/// Returns the wire form of a job.
pub fn encode_job(job: &Job) -> String {
    match job {
        Job::Webhook { entry, received_at } => {
            format!(
                r#"{{"v":{WIRE_VERSION},"webhook":{{"received_at":{received_at},"entry":{}}}}}"#,
                entry.as_str()
            )
        }
        Job::Unreadable(Unreadable {
            body,
            reason,
            received_at,
        }) => {
            let wire = WireUnreadable {
                received_at: *received_at,
                reason: reason.clone(),
                body: BASE64.encode(body),
            };
            format!(r#"{{"v":{WIRE_VERSION},"unreadable":{}}}"#, json(&wire))
        }
        Job::Poll(claim) => format!(r#"{{"v":{WIRE_VERSION},"poll":{}}}"#, json(claim)),
        Job::Erase(request) => format!(r#"{{"v":{WIRE_VERSION},"erase":{}}}"#, json(request)),
        Job::Forward(delivery) => {
            format!(r#"{{"v":{WIRE_VERSION},"forward":{}}}"#, json(delivery))
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value)
        .unwrap_or_else(|error| unreachable!("plain data is always encoded: {error}"))
}

/// Joins jobs in their wire form to the body of one message.
pub fn encode_message<'a>(encoded: impl IntoIterator<Item = &'a str>) -> String {
    let mut body = String::from("[");
    for (i, job) in encoded.into_iter().enumerate() {
        if i > 0 {
            body.push(',');
        }
        body.push_str(job);
    }
    body.push(']');
    body
}

/// Returns the jobs in a message. A job that cannot be read is a [`Job::Unreadable`].
pub fn decode_message(message: &[u8]) -> Vec<Job> {
    match serde_json::from_slice::<Vec<&RawValue>>(message) {
        Ok(items) => items
            .into_iter()
            .map(|item| decode_job(item.get()))
            .collect(),
        Err(_) => vec![unreadable(
            message,
            "the message is not a list of jobs".to_owned(),
        )],
    }
}

/// Returns the job with this wire form, or a [`Job::Unreadable`] if it cannot be read.
pub fn decode_job(text: &str) -> Job {
    match serde_json::from_str::<WireVersion>(text) {
        Err(_) => return unreadable(text.as_bytes(), "the job has no version".to_owned()),
        Ok(WireVersion { v }) if v > WIRE_VERSION => {
            return unreadable(
                text.as_bytes(),
                format!("{NEWER_VERSION_PREFIX}: {v}, this build knows {WIRE_VERSION}"),
            );
        }
        Ok(WireVersion { v }) if v < WIRE_VERSION => {
            return unreadable(
                text.as_bytes(),
                format!("older version: {v}, this build knows {WIRE_VERSION}"),
            );
        }
        Ok(_) => {}
    }
    let Ok(wire) = serde_json::from_str::<WireJob<'_>>(text) else {
        return unreadable(text.as_bytes(), UNKNOWN_KIND.to_owned());
    };
    let WireJob {
        webhook,
        unreadable: undecoded,
        poll,
        erase,
        forward,
    } = wire;
    match (webhook, undecoded, poll, erase, forward) {
        (Some(webhook), None, None, None, None) => Job::Webhook {
            entry: ProfileEntry::from_raw(webhook.entry),
            received_at: webhook.received_at,
        },
        (None, Some(wire), None, None, None) => match BASE64.decode(&wire.body) {
            Ok(body) => Job::Unreadable(Unreadable {
                body,
                reason: wire.reason,
                received_at: wire.received_at,
            }),
            Err(_) => unreadable(
                text.as_bytes(),
                "the body of an unreadable job is not base64".to_owned(),
            ),
        },
        (None, None, Some(claim), None, None) => Job::Poll(claim),
        (None, None, None, Some(request), None) => Job::Erase(request),
        (None, None, None, None, Some(delivery)) => Job::Forward(delivery),
        _ => unreadable(text.as_bytes(), UNKNOWN_KIND.to_owned()),
    }
}

fn unreadable(body: &[u8], reason: String) -> Job {
    Job::Unreadable(Unreadable {
        body: body.to_vec(),
        reason,
        received_at: HostTime(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(message: &[u8]) -> String {
        match decode_message(message).pop() {
            Some(Job::Unreadable(unreadable)) => unreadable.reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_job_of_a_newer_version_is_stored_with_all_its_bytes() {
        let text = r#"{"v":3,"dance":{"x":1}}"#;
        let Job::Unreadable(unreadable) = decode_job(text) else {
            panic!("a job of a newer version was read")
        };
        assert!(unreadable.reason.starts_with(NEWER_VERSION_PREFIX));
        assert_eq!(unreadable.body, text.as_bytes());
    }

    #[test]
    fn an_unknown_job_is_stored_with_a_reason() {
        assert_eq!(reason(b""), "the message is not a list of jobs");
        assert_eq!(reason(b"\xff\xfe"), "the message is not a list of jobs");
        assert_eq!(reason(b"[1]"), "the job has no version");
        assert_eq!(
            reason(br#"[{"v":2}]"#),
            "the job is not of a kind this build knows"
        );
        assert_eq!(
            reason(br#"[{"v":2,"webhook":{"received_at":-1,"entry":{}}}]"#),
            "the job is not of a kind this build knows"
        );
        assert_eq!(
            reason(br#"[{"v":2,"poll":{"subject":"page:1","queue":"other","due_at":1}}]"#),
            "the job is not of a kind this build knows"
        );
        assert_eq!(
            reason(br#"[{"v":1,"poll":{"subject":"page:1","lane":"now","due":1}}]"#),
            "older version: 1, this build knows 2"
        );
    }

    #[test]
    fn an_unreadable_job_does_not_affect_the_other_jobs_of_its_message() {
        let good = encode_job(&Job::Unreadable(Unreadable {
            body: vec![0xff],
            reason: "r".to_owned(),
            received_at: HostTime(5),
        }));
        let jobs = decode_message(encode_message([good.as_str(), "{}", good.as_str()]).as_bytes());
        assert_eq!(jobs.len(), 3);
        assert_eq!(jobs[0], decode_job(&good));
        assert_eq!(jobs[0], jobs[2]);
    }
}
