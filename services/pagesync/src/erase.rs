//! `pagesync erase ...`: erases Pages, or people as `POST /facebook/data-deletion` does.

use anyhow::Context as _;
use common::clock::Clock;
use common::pages::COMMIT_BATCH;
use common::records::erasure::{self, ErasureResult};
use common::records::{connection, dead_letter, load_all, token};
use common::store::{RecordKind, Store};
use model::id::{PageId, UserId};
use serde::Serialize;

use crate::cli::EraseCommand;
use crate::output::{Format, Row, print_error, print_listing, print_progress};

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
pub async fn run(store: &dyn Store, command: EraseCommand, format: Format) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let erased = match &command {
        EraseCommand::Page { ids, dry_run } => {
            let ids: Result<Vec<PageId>, _> = ids.iter().map(|id| PageId::parse(id)).collect();
            erase_pages(store, &ids?, *dry_run, &mut rows).await
        }
        EraseCommand::Connection { id, dry_run } => {
            let user = UserId::parse(id)
                .context("the id of a connection is the id of the person, which has only digits")?;
            let erased = erase_connection(store, &user, *dry_run).await;
            erased.map(|erased| rows.push(erased.row()))
        }
    };
    // If the store fails on the way, the command still prints what it has erased.
    if erased.is_ok() || !rows.is_empty() {
        print_listing(format, &["kind", "id", "result"], &rows)?;
    }
    erased?;
    let (EraseCommand::Page { dry_run, .. } | EraseCommand::Connection { dry_run, .. }) = command;
    remove_from_disk(store, dry_run).await
}

/// Erases Pages in batches, and adds the result of each Page to `rows` after its batch. On a
/// terminal, it shows the progress.
async fn erase_pages(
    store: &dyn Store,
    ids: &[PageId],
    dry_run: bool,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    for batch in ids.chunks(COMMIT_BATCH) {
        let (are_erased, word) = if dry_run {
            let stored = store.load_pages(batch).await?;
            let hold_data = stored
                .iter()
                .map(|stored| erasure::holds_data(&stored.value));
            (hold_data.collect(), "would be erased")
        } else {
            let now = Clock::system().now();
            (erasure::erase_pages(store, batch, now).await?, "erased")
        };
        let result = |(id, is_erased): (&PageId, bool)| ErasedObject {
            kind: "page",
            id: id.to_string(),
            result: if is_erased { word } else { "no such Page" }.to_owned(),
        };
        rows.extend(
            batch
                .iter()
                .zip(are_erased)
                .map(result)
                .map(ErasedObject::row),
        );
        print_progress("Pages", rows.len(), ids.len());
    }
    if dry_run {
        return Ok(());
    }
    // An earlier run of the command may have erased the Pages and then failed, so the dead letters of
    // all Pages are searched.
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let dead_letters = dead_letter::delete_mentioning(store, &ids).await?;
    if dead_letters > 0 {
        print_error(&format!(
            "{dead_letters} dead letters that mention these Pages were deleted"
        ));
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
