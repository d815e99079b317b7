//! `pagesync dead-letter ...`: lists, shows, replays and discards dead letters.

use std::time::Duration;

use common::backends::Backends;
use common::clock::Clock;
use common::queue::Queue;
use common::records::dead_letter::{self, DeadLetter, DeadLetterError, usage};
use common::store::{Store, StoreError, Versioned};
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
    let store = &*backends.store;
    match command {
        DeadLetterCommand::List => print_listing(format, &HEADER, &rows(store).await?),
        DeadLetterCommand::Show { id } => {
            let stored = dead_letter::find_or_fail(store, &id).await?;
            let detail = dead_letter_detail(&id, &stored);
            let text = || {
                let DeadLetterView {
                    id,
                    failed_at,
                    reason,
                    ..
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
        DeadLetterCommand::Replay {
            ids,
            all,
            deliveries,
            dry_run,
        } => replay(backends, Chosen::new(ids, all), deliveries, dry_run).await,
        DeadLetterCommand::Discard { ids, all, dry_run } => {
            let mut chosen = Chosen::new(ids, all);
            while let Some(chunk) = chosen.next_chunk(store).await? {
                if !dry_run {
                    dead_letter::discard(store, &chunk).await?;
                }
                let verb = if dry_run {
                    "would discard"
                } else {
                    "discarded"
                };
                print_done(&chunk, (verb, ""))?;
            }
            if all && !dry_run {
                usage::forget_not_stored(store).await?;
            }
            Ok(())
        }
    }
}

/// Publishes the jobs of these dead letters again, or only prints which. Deliveries to forward are left
/// where they are unless `deliveries` is set.
async fn replay(
    backends: &Backends,
    mut chosen: Chosen,
    deliveries: bool,
    dry_run: bool,
) -> anyhow::Result<()> {
    let (store, queue) = (&*backends.store, &*backends.queue);
    if !dry_run {
        wait_until_ready(queue).await?;
    }
    while let Some(mut chunk) = chosen.next_chunk(store).await? {
        let is_readable = |(_, stored): &(String, _)| dead_letter::is_readable(stored);
        let unreadable: Vec<_> = chunk.extract_if(.., |found| !is_readable(found)).collect();
        print_done(
            &unreadable,
            ("cannot read", "with this version of pagesync"),
        )?;
        if !deliveries {
            let is_delivery = |(_, stored): &mut (String, _)| dead_letter::is_delivery(stored);
            let kept: Vec<_> = chunk.extract_if(.., is_delivery).collect();
            let why = "a delivery to forward, which a bot may answer late: repeat the command with --deliveries";
            print_done(&kept, ("did not replay", why))?;
        }
        if dry_run {
            print_done(&chunk, ("would replay", ""))?;
            continue;
        }
        let is_removed = dead_letter::replay(store, queue, Clock::system().now(), &chunk).await?;
        let after = if is_removed {
            "into the queue again"
        } else {
            "into the queue again; too many dead letters are stored, so this one is retained until it is discarded"
        };
        print_done(&chunk, ("put", after))?;
    }
    Ok(())
}

/// The dead letters that a command works on.
enum Chosen {
    /// Those with these ids; none after the first chunk.
    Ids(Vec<String>),
    /// All, after this id.
    All(Option<String>),
}

impl Chosen {
    fn new(ids: Vec<String>, all: bool) -> Self {
        if all { Self::All(None) } else { Self::Ids(ids) }
    }

    /// Returns the next dead letters; `None` after the last one. Fails if an id is unknown.
    async fn next_chunk(
        &mut self,
        store: &dyn Store,
    ) -> Result<Option<Vec<(String, Versioned<Json>)>>, DeadLetterError> {
        match self {
            Self::Ids(ids) if ids.is_empty() => Ok(None),
            Self::Ids(ids) => {
                let found = dead_letter::load_chosen(store, ids).await?;
                ids.clear();
                Ok(Some(found))
            }
            Self::All(after) => Ok(dead_letter::next_chunk(store, after).await?),
        }
    }
}

/// Prints one line for each dead letter, with these words before and after its id.
fn print_done(
    chunk: &[(String, Versioned<Json>)],
    (before, after): (&str, &str),
) -> anyhow::Result<()> {
    for (id, _) in chunk {
        output::print(format!("{before} {id} {after}").trim_end())?;
    }
    Ok(())
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

/// The header of a list of dead letters.
pub(crate) const HEADER: [&str; 3] = ["id", "failed at", "reason"];

/// Returns the row of each dead letter.
pub(crate) async fn rows(store: &dyn Store) -> Result<Vec<Row>, StoreError> {
    let (mut rows, mut after) = (Vec::new(), None);
    while let Some(chunk) = dead_letter::next_chunk::<DeadLetter>(store, &mut after).await? {
        rows.extend(chunk.iter().map(|(id, stored)| row(id, stored)));
    }
    Ok(rows)
}

fn row(id: &str, stored: &Versioned<DeadLetter>) -> Row {
    let view = dead_letter_view(id, stored);
    let cells = vec![
        view.id.clone(),
        view.failed_at.clone(),
        cell(&Json::from(view.reason.as_str()), 90),
    ];
    Row::new(cells, &view)
}
