//! `pagesync purge`: erasing by hand what `POST /facebook/data-deletion` erases on request.

use anyhow::Context as _;
use common::clock::Clock;
use common::records::erasure::{self, Erased};
use common::records::{all, connection, token};
use common::store::{Kind, Store};
use model::id::{PageId, UserId};
use serde_json::{Value as Json, json};

use crate::cli::PurgeCommand;
use crate::listing;
use crate::output::{self, Format};

/// Does it.
pub async fn run(store: &dyn Store, command: PurgeCommand, format: Format) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let mut rows = Vec::new();
    match command {
        PurgeCommand::Page { ids, dry_run } => {
            let ids: Result<Vec<PageId>, _> = ids.iter().map(|id| PageId::parse(id)).collect();
            for id in ids? {
                let said = if dry_run {
                    "would be erased".to_owned()
                } else {
                    let erased = erasure::page(store, &id, now).await?;
                    erased.map_or("not known".to_owned(), |erased| sentence(&erased))
                };
                rows.push(row("page", id.as_str(), &said));
            }
            finish(store, dry_run).await?;
        }
        PurgeCommand::Connection { id, dry_run } => {
            let user = UserId::parse(&id).context("a person is named by digits")?;
            let known = connection::find(store, &user).await?.is_some();
            let said = if dry_run {
                let prefix = token::prefix(&user);
                let tokens = all::<token::Held>(store, Kind::PageToken, &prefix).await?;
                format!("would be erased, with at most {} Pages", tokens.len())
            } else {
                sentence(&erasure::user(store, &user, now).await?)
            };
            let said = if known {
                said
            } else {
                format!("no such connection; {said}")
            };
            rows.push(row("connection", user.as_str(), &said));
            finish(store, dry_run).await?;
        }
    }
    listing(format, &["kind", "id", ""], &rows)
}

/// Takes it off the disk.
async fn finish(store: &dyn Store, dry_run: bool) -> anyhow::Result<()> {
    if !dry_run {
        let scrubbed = store.scrub().await;
        scrubbed.context("it is erased, and may still be on the disk: run this again")?;
    }
    Ok(())
}

fn row(kind: &str, id: &str, said: &str) -> (Vec<String>, Json) {
    let cells = [kind, id, said].map(ToOwned::to_owned).to_vec();
    (cells, json!({"kind": kind, "id": id, "result": said}))
}

fn sentence(erased: &Erased) -> String {
    let Erased {
        pages,
        kept,
        letters,
    } = erased;
    format!("erased: {pages} Pages, {letters} dead letters; {kept} Pages are kept for others")
}

/// `pagesync token forecast`.
pub async fn forecast(store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let forecasts = common::records::forecast::all(store, now).await?;
    let at = |at: Option<model::time::Millis>| at.map(common::pages::rfc3339);
    let rows: Vec<(Vec<String>, Json)> = forecasts
        .iter()
        .map(|forecast| {
            let days = forecast
                .days_left
                .map_or("-".to_owned(), |days| days.to_string());
            let cells = vec![
                forecast.user.clone(),
                forecast
                    .name
                    .as_deref()
                    .map_or("-".to_owned(), output::harmless),
                forecast.status.to_string(),
                days,
                at(forecast.expires_at).unwrap_or_else(|| "-".to_owned()),
                at(forecast.data_access_expires_at).unwrap_or_else(|| "-".to_owned()),
                forecast.takes_down_count.to_string(),
            ];
            let mut json = json!(forecast);
            json["expires_at"] = json!(at(forecast.expires_at));
            json["data_access_expires_at"] = json!(at(forecast.data_access_expires_at));
            (cells, json)
        })
        .collect();
    let header = [
        "person",
        "name",
        "state",
        "days left",
        "token ends",
        "data access ends",
        "Pages that go with it",
    ];
    listing(format, &header, &rows)
}
