//! `pagesync page ...`: registers, lists, shows, explains and polls Pages.

use std::collections::HashMap;

use anyhow::bail;
use common::clock::Clock;
use common::pages::{self, COMMIT_BATCH};
use common::records::rate_limit;
use common::store::{HistoryEntry, PageIndex, Store, StoredPage, Versioned, load_page};
use common::views::explain::{explain, last_failure_text, status_line};
use common::views::page::{change_view, page_detail, page_view};
use model::id::{PageId, UserId};
use model::page::Page;
use model::queue_name::QueueName;
use model::time::HostTime;

use crate::cli::PageCommand;
use crate::connection::start_phrase;
use crate::output::{self, Format, LIST_CHUNK, Row, cell, escape_control, print_listing, to_json};

/// Runs one of the commands.
pub async fn run(store: &dyn Store, command: PageCommand, format: Format) -> anyhow::Result<()> {
    match command {
        PageCommand::Add { ids, dry_run } => add(store, &ids, dry_run).await,
        PageCommand::List { client } => print_listing(
            format,
            &[
                "Page",
                "status",
                "at Facebook",
                "version",
                "name",
                "next read",
                "last failure",
            ],
            &rows(store, client.as_deref()).await?,
        ),
        PageCommand::Show { id } => {
            let (id, version, page) = load(store, &id).await?;
            output::print(&page_text(format, &id, version, &page))
        }
        PageCommand::Explain { id } => {
            let (id, version, page) = load(store, &id).await?;
            output::print(&explain(&id, version, &page, true))
        }
        PageCommand::Poll { ids, dry_run } => poll(store, &ids, dry_run).await,
        PageCommand::History { id } => history(store, &id, format).await,
    }
}

fn parse(id: &str) -> anyhow::Result<PageId> {
    PageId::parse(id).map_err(|error| {
        anyhow::anyhow!(
            "{error}; Facebook shows the id of a Page under About, Page transparency, and `pagesync page list` lists the Pages of everyone who has logged in"
        )
    })
}

async fn load(store: &dyn Store, id: &str) -> anyhow::Result<(PageId, u64, Page)> {
    let id = parse(id)?;
    let stored = load_page(store, &id).await?;
    let version = stored.version;
    match readable(&id, stored.value) {
        Ok(page) => Ok((id, version, page)),
        Err(reason) => bail!(reason),
    }
}

/// Returns the Page that is stored, or the reason why there is none.
fn readable(id: &PageId, stored: StoredPage) -> Result<Page, String> {
    match stored {
        StoredPage::Page(page) => Ok(*page),
        StoredPage::Unknown => Err(format!(
            "Page {id} is not registered: `pagesync page add {id}` registers it"
        )),
        StoredPage::Corrupt(corrupt) => Err(format!(
            "Page {id} cannot be read from the store ({}); the next webhook or poll replaces it",
            corrupt.reason
        )),
    }
}

async fn add(store: &dyn Store, ids: &[String], dry_run: bool) -> anyhow::Result<()> {
    let ids: Vec<PageId> = ids.iter().map(|id| parse(id)).collect::<Result<_, _>>()?;
    let now = Clock::system().now();
    // The lines of a batch are printed before the next batch, so that they show the progress.
    for batch in ids.chunks(COMMIT_BATCH) {
        let lines: Vec<String> = if dry_run {
            let line = |id| format!("would register Page {id}");
            batch.iter().map(line).collect()
        } else {
            let registered = pages::register(store, batch, now).await?;
            let line = |(id, is_new): (&PageId, bool)| {
                if is_new {
                    format!("registered Page {id}")
                } else {
                    format!("Page {id} is already registered")
                }
            };
            batch.iter().zip(registered).map(line).collect()
        };
        output::print(&lines.join("\n"))?;
    }
    Ok(())
}

async fn poll(store: &dyn Store, ids: &[String], dry_run: bool) -> anyhow::Result<()> {
    let ids: Vec<PageId> = ids.iter().map(|id| parse(id)).collect::<Result<_, _>>()?;
    // The Pages that cannot be read do not keep the others from being read.
    let mut refused = Vec::new();
    match poll_batches(store, &ids, dry_run, &mut refused).await {
        Ok(()) if refused.is_empty() => Ok(()),
        Ok(()) => bail!(refused.join("\n")),
        Err(error) => {
            for reason in &refused {
                output::print_error(reason);
            }
            Err(error)
        }
    }
}

/// Requests reads in batches, and adds the reasons why Pages cannot be read to `refused`.
async fn poll_batches(
    store: &dyn Store,
    ids: &[PageId],
    dry_run: bool,
    refused: &mut Vec<String>,
) -> anyhow::Result<()> {
    for batch in ids.chunks(COMMIT_BATCH) {
        let (mut pages, mut lines) = (Vec::new(), Vec::new());
        for (id, stored) in batch.iter().zip(store.load_pages(batch).await?) {
            match with_connection(id, stored.value) {
                Ok(page) => pages.push((id.clone(), page)),
                Err(reason) => refused.push(reason),
            }
        }
        if dry_run {
            lines.extend(pages.iter().map(|(id, _)| format!("would read Page {id}")));
        } else {
            let (now, mut of_people) = (Clock::system().now(), HashMap::new());
            let (mut readable, mut blocked) = (Vec::new(), Vec::new());
            for (id, page) in &pages {
                blocked.push(blocked_until(store, id, page, &mut of_people, now).await?);
                readable.push(id.clone());
            }
            let due = pages::request_reads(store, &readable, now).await?;
            for ((id, at), blocked) in readable.iter().zip(due).zip(blocked) {
                lines.push(match at {
                    Some(at) => format!("Page {id} is read {}", start_phrase(at, blocked)),
                    None => format!("Page {id} was erased in the meantime"),
                });
            }
        }
        output::print(&lines.join("\n"))?;
    }
    Ok(())
}

/// Returns the Page that is stored if a connection gives access to it, otherwise the reason why it
/// cannot be read.
fn with_connection(id: &PageId, stored: StoredPage) -> Result<Page, String> {
    let page = readable(id, stored)?;
    if page.connections.is_empty() {
        return Err(format!(
            "no connection gives access to Page {id}: `pagesync connection invite` prints the address to connect it"
        ));
    }
    Ok(page)
}

/// Returns until when the rate limits of a Page and of its connections block a read on request, or
/// `None` if they do not. The connection whose rate limit ends first reads the Page. `of_people`
/// caches the result for each person.
async fn blocked_until(
    store: &dyn Store,
    id: &PageId,
    page: &Page,
    of_people: &mut HashMap<UserId, Option<HostTime>>,
    now: HostTime,
) -> anyhow::Result<Option<HostTime>> {
    let until = |buckets| rate_limit::blocked_until(store, buckets, QueueName::PollsNow, now);
    let mut earliest = None;
    for person in &page.connections {
        let of_person = if let Some(until) = of_people.get(person) {
            *until
        } else {
            let app = rate_limit::APP_BUCKET.to_owned();
            let loaded = until(vec![app, rate_limit::user_bucket(person)]).await?;
            of_people.insert(person.clone(), loaded);
            loaded
        };
        earliest = Some(earliest.map_or(of_person, |earliest| of_person.min(earliest)));
    }
    let of_page = until(vec![rate_limit::page_bucket(id)]).await?;
    Ok(of_page.max(earliest.flatten()))
}

async fn rows(store: &dyn Store, client: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut after: Option<PageId> = None;
    let index = client.map_or(PageIndex::All, |client| {
        PageIndex::Client(client.to_owned())
    });
    loop {
        let more = store.list_pages(&index, after.as_ref(), LIST_CHUNK).await?;
        let Some((last, _)) = more.last() else {
            return Ok(rows);
        };
        after = Some(last.clone());
        rows.extend(more.iter().map(|(id, stored)| row(id, stored)));
    }
}

/// Returns the row of a Page in a list.
pub(crate) fn row(id: &PageId, stored: &Versioned<StoredPage>) -> Row {
    let summary = page_view(id, stored);
    let cells = vec![
        summary.id.to_string(),
        summary.status.to_string(),
        summary
            .facebook_state
            .map_or_else(|| "-".to_owned(), |state| state.to_string()),
        summary.version.to_string(),
        cell(&summary.name, 40),
        summary
            .next_read_at
            .clone()
            .unwrap_or_else(|| "-".to_owned()),
        summary
            .last_failure
            .as_ref()
            .map_or_else(|| "-".to_owned(), |failure| escape_control(&failure.reason)),
    ];
    Row::new(cells, &summary)
}

/// Returns every field of a Page as text in `format`.
pub(crate) fn page_text(format: Format, id: &PageId, version: u64, page: &Page) -> String {
    let view = page_detail(id, version, page);
    output::format_object(format, &to_json(&view), || {
        let rows = view.fields.iter().map(|(name, field)| {
            vec![
                name.clone(),
                cell(&field.value, 60),
                field.source.to_string(),
                field.changed_at.clone(),
                field
                    .confirmed_at
                    .clone()
                    .unwrap_or_else(|| "not yet".to_owned()),
            ]
        });
        let header = ["field", "value", "source", "changed at", "confirmed at"];
        let table = output::table(&header, rows);
        let failure = page
            .last_failure
            .as_ref()
            .map_or_else(String::new, |failure| {
                format!("{}\n", last_failure_text(failure))
            });
        format!("{}{failure}{table}", status_line(id, version, page))
    })
}

async fn history(store: &dyn Store, id: &str, format: Format) -> anyhow::Result<()> {
    let (id, _, _) = load(store, id).await?;
    let row = |entry: &HistoryEntry| {
        let view = change_view(&id, entry);
        let cells = vec![
            view.changed_at.clone(),
            view.field.to_string(),
            cell(&view.before, 40),
            cell(&view.after, 40),
            view.source.to_string(),
            view.version.to_string(),
        ];
        Row::new(cells, &view)
    };
    let entries = store.history(&id).await?;
    let rows: Vec<Row> = entries.iter().map(row).collect();
    let header = [
        "changed at",
        "field",
        "before",
        "after",
        "source",
        "version",
    ];
    print_listing(format, &header, &rows)
}
