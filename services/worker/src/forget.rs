//! Erasures that Facebook asks for: a person removed the app, or wants their data deleted.

use common::records::erasure::{self, Receipt};
use common::store::StoreError;
use common::telemetry::Metrics;
use model::job::Forget;

use crate::Parts;

/// Forgets a person and writes the receipt. What could not be taken off the disk at once is tried again
/// every day.
pub(crate) async fn forget(parts: &Parts, forget: &Forget) -> Result<(), StoreError> {
    let store = &*parts.store;
    let what = erasure::user(store, &forget.user, forget.received).await?;
    Metrics::count(&parts.metrics.jobs_done, "forgotten");
    tracing::info!(
        pages = what.pages,
        kept = what.kept,
        dead_letters = what.letters,
        "a person was forgotten"
    );
    // Without a confirmation code it has one nobody knows: the disk is still to be made sure of.
    let nobody = || format!("{:032x}", fastrand::u128(..));
    let hash = forget.receipt.clone().unwrap_or_else(nobody);
    let receipt = Receipt {
        requested: forget.received,
        erased: parts.clock.now(),
        scrubbed: None,
        what,
    };
    erasure::keep(store, &hash, &receipt).await?;
    // Beside the delivery: it may take longer than a process has to end, and is made up for every day.
    let parts = parts.clone();
    tokio::spawn(async move { scrub(&parts).await });
    Ok(())
}

/// Takes what was erased off the disk.
pub(crate) async fn scrub(parts: &Parts) {
    if let Err(error) = erasure::scrub(&*parts.store, parts.clock.now()).await {
        tracing::error!(error = %error, "what was erased may still be on the disk; it is tried again within a day");
    }
}
