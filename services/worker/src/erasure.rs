//! Erasures that Facebook asks for: a person removed the app, or wants their data deleted.

use common::records::erasure::{self, ErasureReceipt};
use common::store::StoreError;
use model::job::ErasureRequest;

use crate::context::Context;

/// Forgets a person and writes the receipt. What could not be taken off the disk at once is tried again
/// every day.
pub(crate) async fn erase(context: &Context, forget: &ErasureRequest) -> Result<(), StoreError> {
    let store = &*context.store;
    let what = erasure::erase_user(store, &forget.user, forget.requested_at).await?;
    context.metrics.jobs_done.count("erased");
    tracing::info!(
        pages = what.pages_erased,
        kept = what.pages_kept,
        dead_letters = what.dead_letters,
        "a person was forgotten"
    );
    // Without a confirmation code it has one nobody knows: the disk is still to be made sure of.
    let nobody = || format!("{:032x}", fastrand::u128(..));
    let hash = forget.confirmation_hash.clone().unwrap_or_else(nobody);
    let receipt = ErasureReceipt {
        requested_at: forget.requested_at,
        erased_at: context.clock.now(),
        scrubbed_at: None,
        result: what,
    };
    erasure::save_receipt(store, &hash, &receipt).await?;
    // Beside the delivery: it may take longer than a process has to end, and is made up for every day.
    let context = context.clone();
    tokio::spawn(async move { scrub(&context).await });
    Ok(())
}

/// Takes what was erased off the disk.
pub(crate) async fn scrub(context: &Context) {
    if let Err(error) = erasure::scrub_store(&*context.store, context.clock.now()).await {
        tracing::error!(error = %error, "what was erased may still be on the disk; it is tried again within a day");
    }
}
