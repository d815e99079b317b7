//! Sends every webhook of a corpus to a real deployment. Each must be answered with 200 and have a
//! visible effect: a value, a read that becomes due, a count or a dead letter.
//!
//! The corpus is `tests/fixtures/webhooks.jsonl` and the file named by `PAGESYNC_EXTRA_CORPUS`, if
//! that is set. Each line is a JSON object with `kind` and either `raw` (the exact text) or `body`.

use std::collections::BTreeSet;
use std::path::Path;

use common::records::dead_letter;
use model::field::TrackedFields;
use model::id::PageId;
use model::page::Page;
use model::time::{FacebookTime, HostTime};
use model::webhook::{EntryId, parse_webhook};
use serde_json::Value as Json;
use simulator::bytes::{signature_256, signature_sha1};

use crate::BACKEND;
use crate::support::deployment::{APP_SECRET, Deployment};

/// A line of the corpus.
struct Line {
    /// The kind of webhook that the line is an example of.
    kind: String,
    /// The exact body of the webhook.
    raw: String,
    /// The headers with the signatures of the body, if the line is a test vector for them.
    signatures: Option<Json>,
}

fn read(path: &Path) -> Vec<Line> {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let line = |line: &str| {
        let json: Json = serde_json::from_str(line).unwrap();
        let raw = json["raw"]
            .as_str()
            .map_or_else(|| json["body"].to_string(), ToOwned::to_owned);
        Line {
            kind: json["kind"].as_str().unwrap().to_owned(),
            raw,
            signatures: json.get("headers").cloned(),
        }
    };
    text.lines()
        .filter(|text| !text.is_empty())
        .map(line)
        .collect()
}

fn corpus() -> Vec<Line> {
    let mut lines =
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/webhooks.jsonl"));
    if let Some(extra) = std::env::var_os("PAGESYNC_EXTRA_CORPUS") {
        lines.extend(read(Path::new(&extra)));
    }
    lines.retain(|line| line.kind.starts_with("webhook") || line.kind == "vector.signature");
    lines
}

/// Returns the ids of the Pages in a body.
fn pages_of(raw: &str) -> Vec<PageId> {
    let body: Json = serde_json::from_str(raw).unwrap_or_default();
    let entries = body["entry"].as_array().cloned().unwrap_or_default();
    let id = |entry: &Json| match &entry["id"] {
        Json::String(id) => PageId::parse(id).ok(),
        Json::Number(id) => PageId::parse(&id.to_string()).ok(),
        _ => None,
    };
    entries.iter().filter_map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_webhook_of_the_corpus_is_applied_counted_or_stored_as_a_dead_letter() {
    let deployment = Deployment::start(BACKEND).await;
    let lines = corpus();
    assert!(lines.len() >= 30, "a corpus of {}", lines.len());
    let pages: BTreeSet<PageId> = lines.iter().flat_map(|line| pages_of(&line.raw)).collect();
    deployment
        .register_without_read(&pages.into_iter().collect::<Vec<_>>())
        .await;
    let mut vectors = 0;
    for line in &lines {
        assert_eq!(
            deployment.deliver(line.raw.clone()).await,
            200,
            "{}",
            line.kind
        );
        if line.kind == "vector.signature" {
            vectors += 1;
            let expected = |name: &str| {
                line.signatures.as_ref().unwrap()[name]
                    .as_str()
                    .unwrap()
                    .to_owned()
            };
            let body = line.raw.as_bytes();
            assert_eq!(
                expected("X-Hub-Signature-256"),
                signature_256(APP_SECRET, body),
                "{}",
                line.raw
            );
            assert_eq!(
                expected("X-Hub-Signature"),
                signature_sha1(APP_SECRET, body),
                "{}",
                line.raw
            );
        }
    }
    assert!(vectors >= 5, "{vectors} signature vectors");
    deployment.wait_until_idle().await;
    let dead_letters = dead_letter::list(&*deployment.store).await.unwrap();
    for line in &lines {
        let outcome = outcome(&deployment, line, &dead_letters).await;
        println!("{:<36} {outcome}", line.kind);
    }
    deployment.finish().await;
}

/// Checks the effects of one webhook, and returns them as text. Panics if there is none.
async fn outcome(
    deployment: &Deployment,
    line: &Line,
    dead_letters: &[(String, dead_letter::DeadLetter)],
) -> String {
    let delivery = parse_webhook(line.raw.as_bytes());
    let mut effects = Vec::new();
    for part in &delivery.rejected {
        let reason = &part.reason;
        assert!(
            dead_letters
                .iter()
                .any(|(_, dead_letter)| dead_letter.reason == *reason),
            "{}: {reason}",
            line.kind
        );
        effects.push(format!("dead letter: {reason}"));
    }
    for (name, n) in &delivery.ignored {
        assert!(deployment.counted(name) >= *n, "{}: {name}", line.kind);
        effects.push(format!("counted: {name}"));
    }
    for entry in &delivery.entries {
        let reading = entry
            .interpret(HostTime(u64::MAX / 2), &TrackedFields::default())
            .unwrap();
        let EntryId::Page(id) = &reading.id else {
            effects.push("test webhook".to_owned());
            continue;
        };
        let (_, page) = deployment.page(id).await.unwrap();
        for observation in &reading.observations {
            let stored = &page.registers[&observation.field];
            assert!(
                stored.merge_key()
                    >= (
                        observation.stamp,
                        observation.source,
                        observation.value.as_ref()
                    ),
                "{}",
                line.kind
            );
            effects.push(format!("applied: {}", observation.field));
        }
        for name in reading.ignored_fields.keys() {
            assert!(deployment.counted(name) > 0, "{}: {name}", line.kind);
            effects.push(format!("counted: {name}"));
        }
        if !reading.notified_fields.is_empty() {
            assert!(
                is_read_due(&page, reading.sent_at),
                "{}: {page:?}",
                line.kind
            );
            effects.push("read due".to_owned());
        }
    }
    assert!(
        !effects.is_empty(),
        "{}: {} has no effect",
        line.kind,
        line.raw
    );
    effects.join(", ")
}

/// Returns whether a read later than `sent` is due, or any read if the notification has no time.
fn is_read_due(page: &Page, sent: Option<FacebookTime>) -> bool {
    match sent {
        Some(sent) => page.polling.read_after > Some(sent),
        None => page.polling.requested_from.is_some(),
    }
}
