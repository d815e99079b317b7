//! A stored Page that cannot be read starts again, and what stood there is kept as a dead letter.

use common::records::dead_letter::{self, Trial};
use common::store::{Corrupt, RecordWrite};
use common::telemetry::Metrics;
use model::id::PageId;
use model::job::{Job, Unreadable};
use model::page::{Page, Status};
use model::time::Millis;

use crate::Parts;

/// A Page in place of one that cannot be read, and the dead letter that keeps what stood there.
pub(crate) fn start_again(
    parts: &Parts,
    id: &PageId,
    corrupt: Corrupt,
    now: Millis,
) -> (Page, RecordWrite) {
    let Corrupt { raw, reason } = corrupt;
    tracing::error!(page.id = %id, reason, "a stored Page cannot be read; it starts again");
    Metrics::count(&parts.metrics.dead_letters, "corrupt_page");
    let mut page = Page {
        status: Status::Corrupt,
        ..Page::default()
    };
    page.polling.ask(now);
    let why = format!("Page {id} could not be read from the store: {reason}");
    let job = Job::Unreadable(Unreadable {
        body: raw.into_bytes(),
        reason,
        received: now,
    });
    (page, dead_letter::keep(&job, &why, now, Trial::Settled))
}
