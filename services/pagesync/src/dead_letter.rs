//! `pagesync dead-letter ...`: lists, shows, replays and discards dead letters.

use std::time::Duration;

use common::backends::Backends;
use common::queue::Queue;
use common::records::dead_letter::{self, DeadLetter};
use common::views::dead_letter::{DeadLetterView, dead_letter_detail, dead_letter_view};
use serde_json::Value as Json;

use crate::cli::DeadLetterCommand;
use crate::output::{self, Format, Row, cell, escape_control, print_listing};

/// How long a replay waits for the queue.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs one of the commands.
pub async fn run(
    backends: &Backends,
    command: DeadLetterCommand,
    format: Format,
) -> anyhow::Result<()> {
    let (store, queue) = (&*backends.store, &*backends.queue);
    match command {
        DeadLetterCommand::List => {
            let rows: Vec<_> = dead_letter::list(store)
                .await?
                .iter()
                .map(|(id, dead_letter)| row(id, dead_letter))
                .collect();
            print_listing(format, &["id", "failed at", "reason"], &rows)
        }
        DeadLetterCommand::Show { id } => {
            let stored = dead_letter::find_or_fail(store, &id).await?;
            let detail = dead_letter_detail(&id, &stored);
            let text = || {
                let DeadLetterView {
                    id,
                    failed_at,
                    reason,
                } = &detail.dead_letter;
                let body = escape_control(&detail.body);
                format!("{id}\nfailed at {failed_at}\n{reason}\n\n{body}")
            };
            output::print(&output::format_object(
                format,
                &output::to_json(&detail),
                text,
            ))
        }
        DeadLetterCommand::Replay { ids, all, dry_run } => {
            let ids = if all {
                dead_letter::list(store)
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
                    dead_letter::find_or_fail(store, &id).await?;
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
                    dead_letter::find_or_fail(store, &id).await?;
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

/// Waits until the queue accepts publishes, because the connection of a command is new. Fails after
/// [`QUEUE_TIMEOUT`].
async fn wait_until_ready(queue: &dyn Queue) -> anyhow::Result<()> {
    let began = tokio::time::Instant::now();
    while !queue.is_ready() {
        anyhow::ensure!(
            began.elapsed() < QUEUE_TIMEOUT,
            "the queue is not available"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Returns the row of a dead letter in a list.
pub(crate) fn row(id: &str, dead_letter: &DeadLetter) -> Row {
    let view = dead_letter_view(id, dead_letter);
    let cells = vec![
        view.id.clone(),
        view.failed_at.clone(),
        cell(&Json::from(view.reason.as_str()), 90),
    ];
    Row::new(cells, &view)
}
