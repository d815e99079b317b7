//! Replacement of a stored Page that cannot be decoded.
//!
//! Invariant: the commit that replaces the Page also stores its former content as a dead letter.

use common::records::dead_letter::{self, RetryState};
use common::store::{CorruptPage, RecordWrite};
use model::id::PageId;
use model::job::{Job, Unreadable};
use model::page::{Page, Status};
use model::time::HostTime;

use crate::context::Context;

/// Returns an empty Page that is due for a read, and the write of the dead letter with the former
/// content of the Page.
pub(crate) fn replace_corrupt_page(
    context: &Context,
    id: &PageId,
    corrupt: CorruptPage,
    now: HostTime,
) -> (Page, RecordWrite) {
    let CorruptPage { raw, reason } = corrupt;
    tracing::error!(page.id = %id, reason, "a stored Page cannot be decoded; it is replaced by an empty one and read again");
    context.metrics.dead_letters.count("corrupt_page");
    let mut page = Page {
        status: Status::Corrupt,
        ..Page::default()
    };
    page.polling.request_read(now);
    let dead_letter_reason = format!("Page {id} could not be read from the store: {reason}");
    let job = Job::Unreadable(Unreadable {
        body: raw.into_bytes(),
        reason,
        received_at: now,
    });
    (
        page,
        dead_letter::dead_letter_write(&job, &dead_letter_reason, now, RetryState::Final),
    )
}
