//! `pagesync erase ...`: erases Pages, or people as `POST /facebook/data-deletion` does.

use anyhow::Context as _;
use common::clock::Clock;
use common::config::Config;
use common::pages::COMMIT_BATCH;
use common::records::erasure::{self, ErasureResult, PageErasure};
use common::records::{connection, load_all, token};
use common::store::{RecordKind, Store};
use model::id::{PageId, UserId};
use serde::Serialize;

use crate::cli::EraseCommand;
use crate::output::{Format, Progress, Row, print_error, print_listing};
use crate::unsubscribe::{self, Scope};

/// The result of the command for one Page or connection.
#[derive(Debug, Serialize)]
struct ErasedObject {
    kind: &'static str,
    id: String,
    result: String,
}

impl ErasedObject {
    fn row(self) -> Row {
        let cells = vec![self.kind.to_owned(), self.id.clone(), self.result.clone()];
        Row::new(cells, &self)
    }
}

/// Runs the command.
pub async fn run(
    config: &Config,
    store: &dyn Store,
    command: EraseCommand,
    format: Format,
) -> anyhow::Result<()> {
    let (mut rows, mut removals) = (Vec::new(), Vec::new());
    let erased = match &command {
        EraseCommand::Page { ids, dry_run } => {
            let ids: Result<Vec<PageId>, _> = ids.iter().map(|id| PageId::parse(id)).collect();
            let ids = ids?;
            if !dry_run {
                removals.push(unsubscribe::begin(config, store, Scope::Pages(&ids)).await?);
            }
            erase_pages(store, &ids, *dry_run, &mut rows).await
        }
        EraseCommand::Connection { id, dry_run } => {
            let user = UserId::parse(id)
                .context("the id of a connection is the id of the person, which has only digits")?;
            if !dry_run {
                removals.push(unsubscribe::begin(config, store, Scope::Person(&user)).await?);
            }
            let erased = erase_connection(store, &user, *dry_run).await;
            erased.map(|erased| rows.push(erased.row()))
        }
    };
    for removal in removals {
        if let Some(text) = unsubscribe::finish(removal).await {
            print_error(&text);
        }
    }
    // If the store fails on the way, the results of the complete batches are still printed.
    let printed = if erased.is_ok() || !rows.is_empty() {
        print_listing(format, &["kind", "id", "result"], &rows)
    } else {
        Ok(())
    };
    erased.context(
        "the erasure is not complete, and some data may remain: run this command again with all of its ids",
    )?;
    let (EraseCommand::Page { dry_run, .. } | EraseCommand::Connection { dry_run, .. }) = command;
    remove_from_disk(store, dry_run).await?;
    printed
}

/// Erases Pages in batches, and adds the result of each Page to `rows` after its batch. On a
/// terminal, it shows the progress.
async fn erase_pages(
    store: &dyn Store,
    ids: &[PageId],
    dry_run: bool,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let mut progress = Progress::new("Pages", ids.len());
    let mut known = Vec::new();
    for batch in ids.chunks(COMMIT_BATCH) {
        let results: Vec<PageErasure> = if dry_run {
            let stored = store.load_pages(batch).await?;
            let results = stored.iter().map(|stored| PageErasure::of(&stored.value));
            results.collect()
        } else {
            erasure::erase_pages(store, batch, Clock::system().now()).await?
        };
        for (id, result) in batch.iter().zip(results) {
            let text = match result {
                PageErasure::Erased if dry_run => "would be erased",
                PageErasure::Erased => "erased",
                PageErasure::AlreadyErased => "already erased",
                PageErasure::Unknown => "no such Page",
            };
            if result != PageErasure::Unknown {
                known.push(id.to_string());
            }
            let object = ErasedObject {
                kind: "page",
                id: id.to_string(),
                result: text.to_owned(),
            };
            rows.push(object.row());
        }
        progress.show(rows.len());
    }
    if !dry_run && !known.is_empty() {
        // An earlier run of the command may have erased a Page and then failed, so this is also
        // done for Pages that are erased already.
        store.forget_erased_changes().await?;
        let deleted = erasure::delete_mentioning(store, &known).await?;
        if deleted > 0 {
            print_error(&format!(
                "deleted the dead letters that mention these Pages: {deleted}"
            ));
        }
    }
    Ok(())
}

async fn erase_connection(
    store: &dyn Store,
    user: &UserId,
    dry_run: bool,
) -> anyhow::Result<ErasedObject> {
    let is_known = connection::find(store, user).await?.is_some();
    let result = if dry_run {
        let prefix = token::page_prefix(user);
        let tokens = load_all::<token::StoredToken>(store, RecordKind::PageToken, &prefix).await?;
        format!(
            "would erase the person's data and at most {} Pages",
            tokens.len()
        )
    } else {
        erasure_summary(&erasure::erase_user(store, user, Clock::system().now(), None).await?)
    };
    Ok(ErasedObject {
        kind: "connection",
        id: user.to_string(),
        result: if is_known {
            result
        } else {
            format!("no such connection; {result}")
        },
    })
}

/// Removes erased data from the disk.
async fn remove_from_disk(store: &dyn Store, dry_run: bool) -> anyhow::Result<()> {
    if dry_run {
        return Ok(());
    }
    let scrubbed = store.scrub().await;
    scrubbed.context("the data is erased, but it may still be on the disk: run this command again")
}

fn erasure_summary(erased: &ErasureResult) -> String {
    let ErasureResult {
        pages_erased,
        pages_kept,
        dead_letters,
    } = erased;
    format!(
        "erased {pages_erased} Pages and {dead_letters} dead letters; kept {pages_kept} Pages of other connections"
    )
}
