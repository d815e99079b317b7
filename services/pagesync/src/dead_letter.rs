//! `pagesync dead-letter ...`.

use std::time::Duration;

use common::backends::Backends;
use common::pages::rfc3339;
use common::queue::Queue;
use common::records::dead_letter::{self, DeadLetter};
use serde_json::{Value as Json, json};

use crate::cli::DeadLetterCommand;
use crate::listing;
use crate::output::{self, Format, cell, harmless};

/// How long a replay waits for the queue.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does one of them.
pub async fn run(
    backends: &Backends,
    command: DeadLetterCommand,
    format: Format,
) -> anyhow::Result<()> {
    let (store, queue) = (&*backends.store, &*backends.queue);
    match command {
        DeadLetterCommand::List => {
            let rows: Vec<_> = dead_letter::all(store)
                .await?
                .iter()
                .map(|(id, letter)| row(id, letter))
                .collect();
            listing(format, &["id", "kept at", "reason"], &rows)
        }
        DeadLetterCommand::Show { id } => {
            let letter = dead_letter::show(store, &id).await?;
            let body = dead_letter::body(&letter);
            let json = json!({"id": id, "kept_at": rfc3339(letter.kept), "reason": letter.reason, "body": body});
            let text = || {
                format!(
                    "{id}\nkept {}\n{}\n\n{}",
                    rfc3339(letter.kept),
                    letter.reason,
                    harmless(&body)
                )
            };
            output::print(&output::one(format, &json, text))
        }
        DeadLetterCommand::Replay { ids, all, dry_run } => {
            let ids = if all {
                dead_letter::all(store)
                    .await?
                    .into_iter()
                    .map(|(id, _)| id)
                    .collect()
            } else {
                ids
            };
            if !dry_run {
                wait_until_ready(queue).await?;
            }
            for id in ids {
                if dry_run {
                    dead_letter::show(store, &id).await?;
                    output::print(&format!("would replay {id}"))?;
                } else {
                    dead_letter::replay(store, queue, &id).await?;
                    output::print(&format!("put {id} into the queue again"))?;
                }
            }
            Ok(())
        }
        DeadLetterCommand::Discard { ids, dry_run } => {
            for id in ids {
                if dry_run {
                    dead_letter::show(store, &id).await?;
                    output::print(&format!("would discard {id}"))?;
                } else {
                    dead_letter::discard(store, &id).await?;
                    output::print(&format!("discarded {id}"))?;
                }
            }
            Ok(())
        }
    }
}

/// A command has just connected: gives the publisher the moment it needs.
async fn wait_until_ready(queue: &dyn Queue) -> anyhow::Result<()> {
    let begun = tokio::time::Instant::now();
    while !queue.is_ready() {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "the queue is not available");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// One line of the list of dead letters.
pub(crate) fn row(id: &str, letter: &DeadLetter) -> (Vec<String>, Json) {
    let kept = rfc3339(letter.kept);
    let cells = vec![
        id.to_owned(),
        kept.clone(),
        cell(&Json::from(letter.reason.as_str()), 90),
    ];
    (
        cells,
        json!({"id": id, "kept_at": kept, "reason": letter.reason}),
    )
}
