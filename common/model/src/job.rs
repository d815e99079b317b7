//! Jobs: what travels through the queue, and its versioned wire form.
//!
//! A message is a JSON list, each item `{"v":1,"<kind>":{...}}`. Invariant: [`decode`] is total. What
//! it cannot read, of whatever version or origin, becomes a [`Job::Unreadable`] that keeps the bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::hex::hex;
use crate::id::{Subject, UserId};
use crate::queue_name::QueueName;
use crate::time::HostTime;
use crate::webhook::ProfileEntry;

/// Version of the wire form this build writes.
pub const VERSION: u64 = 1;
/// How a dead letter's reason begins when its job is of a version this build does not know.
pub const NEWER_VERSION: &str = "newer version";
/// The reason of a job that this version has no kind for: a later build of the same version may.
pub const UNKNOWN_KIND: &str = "the job is not of a kind this build knows";

/// A due poll, taken by one scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// What to read.
    pub subject: Subject,
    /// In which queue it was due.
    pub queue: QueueName,
    /// When it was due, on our clock.
    pub due_at: HostTime,
}

/// Signed bytes we could not read, kept for a person or a later version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The bytes as they came.
    pub body: Vec<u8>,
    /// What is wrong with them: their shape, never their content.
    pub reason: String,
    /// When they came, on our clock.
    pub received_at: HostTime,
}

/// A person wants to be forgotten, or removed the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureRequest {
    /// Who.
    pub user: UserId,
    /// The hash of the confirmation code they were given; `None`: they only removed the app.
    pub confirmation_hash: Option<String>,
    /// When they asked, on our clock.
    pub requested_at: HostTime,
}

/// A unit of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// One entry of a webhook.
    Webhook {
        /// The parts of the entry that concern a profile.
        entry: ProfileEntry,
        /// When it came, on our clock.
        received_at: HostTime,
    },
    /// Something signed that we could not read.
    Unreadable(Unreadable),
    /// A read of Facebook.
    Poll(Claim),
    /// An erasure.
    Erase(ErasureRequest),
}

/// Names a job by its content: the same job delivered twice has the same id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(String);

impl JobId {
    /// The id of the job with this encoding.
    pub fn from_encoded(encoded: &str) -> Self {
        let digest = Sha256::digest(encoded.as_bytes());
        Self(hex(&digest[..16]))
    }

    /// 32 hexadecimal digits.
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
    v: u64,
    #[serde(borrow, default)]
    webhook: Option<WireWebhook<'a>>,
    #[serde(default)]
    unreadable: Option<WireUnreadable>,
    #[serde(default)]
    poll: Option<Claim>,
    #[serde(default)]
    erase: Option<ErasureRequest>,
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

/// One job in its wire form.
pub fn encode_job(job: &Job) -> String {
    match job {
        Job::Webhook { entry, received_at } => {
            format!(
                r#"{{"v":{VERSION},"webhook":{{"received_at":{received_at},"entry":{}}}}}"#,
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
            format!(r#"{{"v":{VERSION},"unreadable":{}}}"#, json(&wire))
        }
        Job::Poll(claim) => format!(r#"{{"v":{VERSION},"poll":{}}}"#, json(claim)),
        Job::Erase(request) => format!(r#"{{"v":{VERSION},"erase":{}}}"#, json(request)),
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("plain data encodes: {error}"))
}

/// Joins encoded jobs to the body of one message.
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

/// The jobs in a message. Total: see the module's invariant.
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

/// One job from its wire form; [`Job::Unreadable`] if it has none we know.
pub fn decode_job(text: &str) -> Job {
    match serde_json::from_str::<WireVersion>(text) {
        Err(_) => return unreadable(text.as_bytes(), "the job has no version".to_owned()),
        Ok(WireVersion { v }) if v > VERSION => {
            return unreadable(
                text.as_bytes(),
                format!("{NEWER_VERSION}: {v}, this build knows {VERSION}"),
            );
        }
        Ok(_) => {}
    }
    let shape = UNKNOWN_KIND;
    let Ok(wire) = serde_json::from_str::<WireJob<'_>>(text) else {
        return unreadable(text.as_bytes(), shape.to_owned());
    };
    if wire.v != VERSION {
        return unreadable(text.as_bytes(), shape.to_owned());
    }
    match (wire.webhook, wire.unreadable, wire.poll, wire.erase) {
        (Some(webhook), None, None, None) => Job::Webhook {
            entry: ProfileEntry::from_raw(webhook.entry),
            received_at: webhook.received_at,
        },
        (None, Some(wire), None, None) => match BASE64.decode(&wire.body) {
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
        (None, None, Some(claim), None) => Job::Poll(claim),
        (None, None, None, Some(request)) => Job::Erase(request),
        _ => unreadable(text.as_bytes(), shape.to_owned()),
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
    fn a_job_of_a_newer_version_is_kept_whole() {
        let text = r#"{"v":2,"dance":{"x":1}}"#;
        let Job::Unreadable(unreadable) = decode_job(text) else {
            panic!("understood")
        };
        assert!(unreadable.reason.starts_with(NEWER_VERSION));
        assert_eq!(unreadable.body, text.as_bytes());
    }

    #[test]
    fn what_is_not_ours_is_kept_with_a_reason() {
        assert_eq!(reason(b""), "the message is not a list of jobs");
        assert_eq!(reason(b"\xff\xfe"), "the message is not a list of jobs");
        assert_eq!(reason(b"[1]"), "the job has no version");
        assert_eq!(
            reason(br#"[{"v":1}]"#),
            "the job is not of a kind this build knows"
        );
        assert_eq!(
            reason(br#"[{"v":1,"webhook":{"received_at":-1,"entry":{}}}]"#),
            "the job is not of a kind this build knows"
        );
        assert_eq!(
            reason(br#"[{"v":0,"poll":{"subject":"page:1","queue_name":"webhooks","due":1}}]"#),
            "the job is not of a kind this build knows"
        );
    }

    #[test]
    fn one_bad_job_does_not_take_its_neighbours_along() {
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
