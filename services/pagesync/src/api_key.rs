//! `pagesync api-key ...`: creates, lists and revokes keys of the HTTP API.
//!
//! Invariant: the text of a key is printed once, to standard output, and never stored.

use std::time::Duration;

use anyhow::{Context as _, bail};
use common::clock::Clock;
use common::records::api_key::{self, ApiKey, NewKey, Scope};
use common::records::audit::{self, AuditRecord};
use common::records::load_all;
use common::store::{CommitOutcome, RecordKind, Store};
use common::views::api_key::api_key_view;
use model::id::PageId;
use model::time::HostTime;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::Value as Json;

use crate::cli::{ApiKeyCommand, KeyScope};
use crate::invitation::{parse_client, parse_name};
use crate::output::{self, Format, Row, cell, print_listing, to_json};

/// Runs one of the commands.
pub async fn run(store: &dyn Store, command: ApiKeyCommand, format: Format) -> anyhow::Result<()> {
    match command {
        ApiKeyCommand::Create {
            name,
            scope,
            pages,
            client,
            days,
        } => {
            let now = Clock::system().now();
            let record = ApiKey {
                name: parse_name("a key", &name)?,
                scope: match scope {
                    KeyScope::Read => Scope::Read,
                    KeyScope::Operate => Scope::Operate,
                    KeyScope::Token => Scope::Token,
                },
                hash: String::new(),
                pages: parse_pages(&pages)?,
                client: client.as_deref().map(parse_client).transpose()?,
                created_at: now,
                expires_at: days.map(|days| now.plus(Duration::from_secs(days * 24 * 3600))),
                revoked_at: None,
            };
            create(store, record, now, format).await
        }
        ApiKeyCommand::List => list(store, format).await,
        ApiKeyCommand::Revoke { id } => revoke(store, &id).await,
    }
}

/// A new key, as it is printed once.
#[derive(Serialize)]
struct CreatedKey<'a> {
    id: &'a str,
    name: &'a str,
    scope: Scope,
    key: &'a str,
}

async fn create(
    store: &dyn Store,
    mut record: ApiKey,
    now: HostTime,
    format: Format,
) -> anyhow::Result<()> {
    let new = NewKey::generate().context("the operating system returned no random bytes")?;
    record.hash = api_key::hash(new.text.expose_secret());
    if api_key::save(store, &new.id, &record, now).await? == CommitOutcome::Stale {
        bail!("a key with this id exists already: repeat the command");
    }
    record_action(store, "api_key.create", &new.id, now).await?;
    let created = CreatedKey {
        id: &new.id,
        name: &record.name,
        scope: record.scope,
        key: new.text.expose_secret(),
    };
    output::print(&output::format_object(format, &to_json(&created), || {
        format!(
            "created the key {} with the scope {}. It is shown only now:\n\n{}\n\ncurl -H \"Authorization: Bearer <key>\" http://127.0.0.1:5001/v1/pages",
            new.id,
            record.scope,
            new.text.expose_secret()
        )
    }))
}

async fn list(store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let stored = load_all::<ApiKey>(store, RecordKind::ApiKey, "").await?;
    let row = |(id, stored): &(String, common::store::Versioned<ApiKey>)| {
        let view = api_key_view(id, &stored.value, now);
        let pages = view
            .pages
            .as_ref()
            .map_or("all".to_owned(), |pages| pages.len().to_string());
        let cells = vec![
            view.id.clone(),
            cell(&Json::from(view.name.as_str()), 40),
            view.scope.to_string(),
            pages,
            cell(&Json::from(view.client.clone()), 40),
            view.state.to_owned(),
            view.expires_at.clone().unwrap_or_else(|| "-".to_owned()),
        ];
        Row::new(cells, &view)
    };
    let rows: Vec<Row> = stored.iter().map(row).collect();
    let header = ["key", "name", "scope", "Pages", "client", "state", "ends"];
    print_listing(format, &header, &rows)
}

async fn revoke(store: &dyn Store, id: &str) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let Some(record) = api_key::revoke(store, id, now).await? else {
        bail!("there is no such key: `pagesync api-key list` lists them");
    };
    record_action(store, "api_key.revoke", id, now).await?;
    let name = output::escape_control(&record.name);
    output::print(&format!(
        "revoked the key {id} ({name}); a running API accepts it for at most five more seconds"
    ))
}

/// Records an action of the command line.
async fn record_action(
    store: &dyn Store,
    action: &str,
    id: &str,
    at: HostTime,
) -> anyhow::Result<()> {
    let record = AuditRecord {
        at,
        actor: "command line".to_owned(),
        actor_name: None,
        action: action.to_owned(),
        target: format!("api_key:{id}"),
        version: None,
        outcome: "done".to_owned(),
    };
    Ok(audit::record(store, &record).await?)
}

/// Returns the Pages of a limited key, or `None` if no Page is given.
fn parse_pages(ids: &[String]) -> anyhow::Result<Option<Vec<PageId>>> {
    let pages: Result<Vec<PageId>, _> = ids.iter().map(|id| PageId::parse(id)).collect();
    let pages = pages.context("--page is the id of a Page, which has 1 to 20 digits")?;
    Ok((!pages.is_empty()).then_some(pages))
}
