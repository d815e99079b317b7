//! Replacement of a stored Page that cannot be decoded.
//!
//! Invariant: the commit that replaces the Page also stores its former content as a dead letter, or
//! counts it if too many dead letters are stored.

use common::records::dead_letter::{DeadLetter, usage::Usage};
use common::store::{CorruptPage, RecordWrite, StoreError};
use model::id::PageId;
use model::job::{Job, Unreadable};
use model::page::{Page, Status};
use model::time::HostTime;

use crate::context::Context;

/// Returns an empty Page that is due for a read, and the writes of the dead letter with the former
/// content of the Page. Fails if the store does not answer.
pub(crate) async fn replace_corrupt_page(
    context: &Context,
    id: &PageId,
    corrupt: CorruptPage,
    now: HostTime,
) -> Result<(Page, Vec<RecordWrite>), StoreError> {
    let CorruptPage { raw, reason } = corrupt;
    tracing::error!(page.id = %id, reason, "a stored Page cannot be decoded; it is replaced by an empty one and read again");
    context.metrics.dead_letters.count("corrupt_page");
    let mut page = Page {
        status: Status::Corrupt,
        ..Page::default()
    };
    page.polling.request_read(now);
    // The reason names the Page, so that two Pages with the same damage have two dead letters.
    let reason = format!("Page {id} could not be read from the store: {reason}");
    let job = Job::Unreadable(Unreadable {
        body: raw.into_bytes(),
        reason: reason.clone(),
        received_at: now,
    });
    let mut usage = Usage::load(&*context.store, now).await?;
    let (is_stored, writes) = usage.admit(&job, &DeadLetter::new(&job, &reason, now));
    if !is_stored {
        context.metrics.dead_letters.count("not_stored");
    }
    Ok((page, writes))
}
