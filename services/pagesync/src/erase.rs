//! `pagesync erase ...`: erases Pages, or people as `POST /facebook/data-deletion` does.

use anyhow::Context as _;
use common::clock::Clock;
use common::records::erasure::{self, ErasureResult};
use common::records::{connection, load_all, token};
use common::store::{RecordKind, Store};
use model::id::{PageId, UserId};
use serde::Serialize;

use crate::cli::EraseCommand;
use crate::output::{Format, Row, print_listing};

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
    let rows = match command {
        EraseCommand::Page { ids, dry_run } => {
            let ids: Result<Vec<PageId>, _> = ids.iter().map(|id| PageId::parse(id)).collect();
            let mut rows = Vec::new();
            for id in ids? {
                rows.push(erase_page(store, &id, dry_run).await?.row());
            }
            remove_from_disk(store, dry_run).await?;
            rows
        }
        EraseCommand::Connection { id, dry_run } => {
            let user = UserId::parse(&id)
                .context("the id of a connection is the id of the person, which has only digits")?;
            let row = erase_connection(store, &user, dry_run).await?.row();
            remove_from_disk(store, dry_run).await?;
            vec![row]
        }
    };
    print_listing(format, &["kind", "id", "result"], &rows)
}

async fn erase_page(store: &dyn Store, id: &PageId, dry_run: bool) -> anyhow::Result<ErasedObject> {
    let result = if dry_run {
        "would be erased".to_owned()
    } else {
        let erased = erasure::erase_page(store, id, Clock::system().now()).await?;
        erased.map_or("no such Page".to_owned(), |erased| erasure_summary(&erased))
    };
    Ok(ErasedObject {
        kind: "page",
        id: id.to_string(),
        result,
    })
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
