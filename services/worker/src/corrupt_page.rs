//! A stored Page that cannot be read starts again, and what stood there is kept as a dead letter.

use common::records::dead_letter::{self, RetryState};
use common::store::{CorruptPage, RecordWrite};
use model::id::PageId;
use model::job::{Job, Unreadable};
use model::page::{Page, Status};
use model::time::HostTime;

use crate::context::Context;

/// A Page in place of one that cannot be read, and the dead letter that keeps what stood there.
pub(crate) fn replace_corrupt_page(
    context: &Context,
    id: &PageId,
    corrupt: CorruptPage,
    now: HostTime,
) -> (Page, RecordWrite) {
    let CorruptPage { raw, reason } = corrupt;
    tracing::error!(page.id = %id, reason, "a stored Page cannot be read; it starts again");
    context.metrics.dead_letters.count("corrupt_page");
    let mut page = Page {
        status: Status::Corrupt,
        ..Page::default()
    };
    page.polling.request_read(now);
    let why = format!("Page {id} could not be read from the store: {reason}");
    let job = Job::Unreadable(Unreadable {
        body: raw.into_bytes(),
        reason,
        received_at: now,
    });
    (
        page,
        dead_letter::dead_letter_write(&job, &why, now, RetryState::Finished),
    )
}
