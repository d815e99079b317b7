//! Every webhook of a corpus through the real ingress: 200, and then applied, noted, counted or kept
//! as a dead letter. None is lost, none refused.
//!
//! The corpus is `tests/fixtures/webhooks.jsonl`, and the file named by `PAGESYNC_EXTRA_CORPUS` if
//! there is one: a JSON object a line with `kind` and either `raw` (the exact text) or `body`.

use std::collections::BTreeSet;
use std::path::Path;

use common::records::dead_letter;
use model::field::TrackedFields;
use model::id::PageId;
use model::page::Page;
use model::time::{FacebookTime, HostTime};
use model::webhook::{EntryId, parse_delivery};
use serde_json::Value as Json;
use simulator::bytes::{signature_256, signature_sha1};

use crate::BACKEND;
use crate::support::deployment::{APP_SECRET, Deployment};

struct Line {
    kind: String,
    raw: String,
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

/// The Pages a body speaks of.
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
async fn every_webhook_of_the_corpus_is_applied_noted_counted_or_kept() {
    let deployment = Deployment::start(BACKEND).await;
    let lines = corpus();
    assert!(lines.len() >= 30, "a corpus of {}", lines.len());
    let pages: BTreeSet<PageId> = lines.iter().flat_map(|line| pages_of(&line.raw)).collect();
    deployment.add(&pages.into_iter().collect::<Vec<_>>()).await;
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
            let given = |name: &str| {
                line.signatures.as_ref().unwrap()[name]
                    .as_str()
                    .unwrap()
                    .to_owned()
            };
            let body = line.raw.as_bytes();
            assert_eq!(
                given("X-Hub-Signature-256"),
                signature_256(APP_SECRET, body),
                "{}",
                line.raw
            );
            assert_eq!(
                given("X-Hub-Signature"),
                signature_sha1(APP_SECRET, body),
                "{}",
                line.raw
            );
        }
    }
    assert!(vectors >= 5, "{vectors} signature vectors");
    deployment.wait_until_idle().await;
    let letters = dead_letter::all(&*deployment.store).await.unwrap();
    for line in &lines {
        let outcome = outcome(&deployment, line, &letters).await;
        println!("{:<36} {outcome}", line.kind);
    }
    deployment.finish().await;
}

/// What became of one webhook, checked against the state.
async fn outcome(
    deployment: &Deployment,
    line: &Line,
    letters: &[(String, dead_letter::DeadLetter)],
) -> String {
    let taken = parse_delivery(line.raw.as_bytes());
    let mut said = Vec::new();
    for part in &taken.rejected {
        let reason = &part.reason;
        assert!(
            letters.iter().any(|(_, letter)| letter.reason == *reason),
            "{}: {reason}",
            line.kind
        );
        said.push(format!("kept: {reason}"));
    }
    for (name, n) in &taken.ignored {
        assert!(deployment.counted(name) >= *n, "{}: {name}", line.kind);
        said.push(format!("counted: {name}"));
    }
    for entry in &taken.entries {
        let reading = entry
            .interpret(HostTime(u64::MAX / 2), &TrackedFields::default())
            .unwrap();
        let EntryId::Page(id) = &reading.id else {
            said.push("test".to_owned());
            continue;
        };
        let (_, page) = deployment.page(id).await.unwrap();
        for seen in &reading.observations {
            let stored = &page.registers[&seen.field];
            assert!(
                stored.merge_key() >= (seen.stamp, seen.source, seen.value.as_ref()),
                "{}",
                line.kind
            );
            said.push(format!("applied: {}", seen.field));
        }
        for name in reading.untracked.keys() {
            assert!(deployment.counted(name) > 0, "{}: {name}", line.kind);
            said.push(format!("counted: {name}"));
        }
        if !reading.notified_fields.is_empty() {
            assert!(is_noted(&page, reading.sent_at), "{}: {page:?}", line.kind);
            said.push("noted".to_owned());
        }
    }
    assert!(
        !said.is_empty(),
        "{}: nothing became of {}",
        line.kind,
        line.raw
    );
    said.join(", ")
}

/// Whether a read later than `sent` is asked for.
fn is_noted(page: &Page, sent: Option<FacebookTime>) -> bool {
    match sent {
        Some(sent) => page.polling.read_after > Some(sent),
        None => page.polling.requested_after.is_some(),
    }
}
