//! `pagesync page ...`.

use std::fmt::Write as _;

use anyhow::{Context as _, bail};
use common::clock::Clock;
use common::pages::{self, rfc3339};
use common::records::throttle;
use common::store::{Store, Stored, Versioned};
use model::id::PageId;
use model::lane::Lane;
use model::page::Page;
use serde_json::{Value as Json, json};

use crate::cli::PageCommand;
use crate::connect::begins;
use crate::output::{self, Format, cell, harmless};
use crate::{LISTING, listing};

/// Does one of them.
pub async fn run(store: &dyn Store, command: PageCommand, format: Format) -> anyhow::Result<()> {
    match command {
        PageCommand::Add { ids, dry_run } => add(store, &ids, dry_run).await,
        PageCommand::List => listing(
            format,
            &["page", "status", "version", "name", "next read"],
            &rows(store).await?,
        ),
        PageCommand::Show { id } => {
            let (id, version, page) = load(store, &id).await?;
            output::print(&show(format, &id, version, &page)?)
        }
        PageCommand::Explain { id } => {
            let (id, version, page) = load(store, &id).await?;
            output::print(&explain(&id, version, &page))
        }
        PageCommand::Poll { ids, dry_run } => poll(store, &ids, dry_run).await,
        PageCommand::History { id } => history(store, &id, format).await,
    }
}

fn parse(id: &str) -> anyhow::Result<PageId> {
    PageId::parse(id).map_err(|error| anyhow::anyhow!("{error}"))
}

async fn load(store: &dyn Store, id: &str) -> anyhow::Result<(PageId, u64, Page)> {
    let id = parse(id)?;
    let held = store
        .load(std::slice::from_ref(&id))
        .await?
        .pop()
        .context("no answer from the store")?;
    match held {
        Versioned {
            version,
            value: Stored::Page(page),
        } => Ok((id, version, *page)),
        Versioned {
            value: Stored::Unknown,
            ..
        } => {
            bail!("Page {id} is not registered: `pagesync page add {id}` registers it")
        }
        Versioned {
            value: Stored::Corrupt(corrupt),
            ..
        } => {
            bail!(
                "Page {id} cannot be read from the store ({}); the next webhook or poll starts it again",
                corrupt.reason
            )
        }
    }
}

async fn add(store: &dyn Store, ids: &[String], dry_run: bool) -> anyhow::Result<()> {
    let ids: Vec<PageId> = ids.iter().map(|id| parse(id)).collect::<Result<_, _>>()?;
    let now = Clock::system().now();
    for id in ids {
        let line = if dry_run {
            format!("would register Page {id}")
        } else if pages::add(store, &id, now).await? {
            format!("registered Page {id}")
        } else {
            format!("Page {id} is already registered")
        };
        output::print(&line)?;
    }
    Ok(())
}

async fn poll(store: &dyn Store, ids: &[String], dry_run: bool) -> anyhow::Result<()> {
    let ids: Vec<PageId> = ids.iter().map(|id| parse(id)).collect::<Result<_, _>>()?;
    for id in ids {
        let (_, _, page) = load(store, id.as_str()).await?;
        if page.connections.is_empty() {
            bail!("no login covers Page {id}: `pagesync connect url` says where to connect it");
        }
        let line = if dry_run {
            format!("would read Page {id}")
        } else {
            let now = Clock::system().now();
            // Whoever may call first reads it.
            let mut closed = Vec::new();
            for person in &page.connections {
                let (app, person) = (throttle::APP.to_owned(), throttle::user(person));
                let buckets = [app, throttle::page(&id), person];
                closed.push(throttle::closed(store, buckets, Lane::PollsNow, now).await?);
            }
            let closed = closed.into_iter().min().flatten();
            match pages::ask(store, &id, now).await? {
                Some(at) => format!("Page {id} is read {}", begins(at, closed)),
                None => format!("Page {id} is gone meanwhile"),
            }
        };
        output::print(&line)?;
    }
    Ok(())
}

async fn rows(store: &dyn Store) -> anyhow::Result<Vec<(Vec<String>, Json)>> {
    let mut rows = Vec::new();
    let mut after: Option<PageId> = None;
    loop {
        let more = store.pages(after.as_ref(), LISTING).await?;
        let Some((last, _)) = more.last() else {
            return Ok(rows);
        };
        after = Some(last.clone());
        rows.extend(more.into_iter().map(|(id, held)| row(&id, &held)));
    }
}

/// One line of the list of Pages.
pub(crate) fn row(id: &PageId, held: &Versioned<Stored>) -> (Vec<String>, Json) {
    let (status, name, due) = match &held.value {
        Stored::Page(page) => {
            let name = pages::view(id, held.version, page)
                .fields
                .get("name")
                .map_or(Json::Null, |name| name.value.clone());
            let due = page.polling.due().map(|(_, at)| rfc3339(at));
            (page.status.to_string(), name, due)
        }
        Stored::Unknown | Stored::Corrupt(_) => ("corrupt".to_owned(), Json::Null, None),
    };
    let cells = vec![
        id.to_string(),
        status.clone(),
        held.version.to_string(),
        cell(&name, 40),
        due.clone().unwrap_or_else(|| "-".to_owned()),
    ];
    (
        cells,
        json!({"id": id, "status": status, "version": held.version, "name": name, "due": due}),
    )
}

/// What is known of a Page.
pub(crate) fn show(
    format: Format,
    id: &PageId,
    version: u64,
    page: &Page,
) -> anyhow::Result<String> {
    let view = pages::view(id, version, page);
    let json = serde_json::to_value(&view)?;
    Ok(output::one(format, &json, || {
        let rows = view.fields.iter().map(|(name, field)| {
            let proven = field
                .proven_at
                .clone()
                .unwrap_or_else(|| "not yet".to_owned());
            vec![
                name.clone(),
                cell(&field.value, 60),
                field.source.to_string(),
                field.changed_at.clone(),
                proven,
            ]
        });
        let table = output::table(
            &["field", "value", "source", "changed at", "proven at"],
            rows,
        );
        format!("Page {id}: {}, version {version}\n{table}", page.status)
    }))
}

/// Why each field has its value, in sentences.
fn explain(id: &PageId, version: u64, page: &Page) -> String {
    let mut text = format!(
        "Page {id} is {}; it was written {version} times.\n",
        page.status
    );
    for (name, register) in &page.registers {
        let value = register.value.as_ref().map_or_else(
            || "no value".to_owned(),
            |value| harmless(value.json_text()),
        );
        let (origin, stamp) = (rfc3339(register.origin.stamp), rfc3339(register.stamp));
        let first = format!("first seen by {} at {origin}", register.origin.source);
        let last = if origin == stamp {
            String::new()
        } else {
            format!(", last by {} at {stamp}", register.source)
        };
        let proven = page
            .proven_at(name)
            .map_or("no read has proven it yet".to_owned(), |at| {
                format!("proven by a read at {}", rfc3339(at))
            });
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name} = {value}\n      {first}{last}; {proven}.");
    }
    let logins: Vec<&str> = page.connections.iter().map(PageId::as_str).collect();
    let _ = match logins.as_slice() {
        [] => writeln!(
            text,
            "No login covers it: `pagesync connect url` says where to connect it."
        ),
        logins => writeln!(text, "Covered by the login of {}.", logins.join(", ")),
    };
    for field in &page.absent {
        let _ = writeln!(
            text,
            "The last read asked for {field} and did not get it; its value is kept until a second read agrees."
        );
    }
    let polling = &page.polling;
    if let Some(need) = polling
        .need
        .filter(|need| polling.read.is_none_or(|read| read <= *need))
    {
        let _ = writeln!(
            text,
            "A webhook asks for a read later than {} (Facebook's clock).",
            rfc3339(need)
        );
    }
    if let Some(asked) = polling
        .asked
        .filter(|asked| polling.answered.is_none_or(|answered| answered < *asked))
    {
        let _ = writeln!(text, "A read begun after {} is asked for.", rfc3339(asked));
    }
    let _ = match polling.due() {
        Some((lane, at)) => writeln!(
            text,
            "It is read next from {} on, in lane {lane}.",
            rfc3339(at)
        ),
        None => writeln!(text, "It is not read: no login covers it."),
    };
    text
}

async fn history(store: &dyn Store, id: &str, format: Format) -> anyhow::Result<()> {
    let (id, _, _) = load(store, id).await?;
    let entries = store.history(&id).await?;
    let row = |entry: &common::store::HistoryEntry| {
        let cells = vec![
            rfc3339(entry.stamp),
            entry.field.to_string(),
            cell(&entry.before, 40),
            cell(&entry.after, 40),
            entry.source.to_string(),
            entry.version.to_string(),
        ];
        Ok((cells, serde_json::to_value(entry)?))
    };
    let rows: Vec<_> = entries.iter().map(row).collect::<anyhow::Result<_>>()?;
    listing(
        format,
        &[
            "changed at",
            "field",
            "before",
            "after",
            "source",
            "version",
        ],
        &rows,
    )
}
