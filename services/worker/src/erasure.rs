//! Erasures that Facebook requests because a person removed the app or asked for their data to be
//! deleted.
//!
//! Invariant: a receipt is written after the erasure that it confirms.

use std::time::Duration;

use common::records::erasure::{self, ErasureReceipt};
use common::store::StoreError;
use common::unsubscribe::Unsubscription;
use model::job::ErasureRequest;

use crate::context::Context;

/// How often a worker checks whether erased data must be removed from the disk.
const SCRUB_CHECK_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// Erases a person, writes the receipt, and starts to remove the erased data from the disk. Fails
/// if the store does not answer.
pub(crate) async fn erase(context: &Context, request: &ErasureRequest) -> Result<(), StoreError> {
    let store = &*context.store;
    unsubscribe(context, request).await?;
    let result = erasure::erase_user(
        store,
        &request.user,
        request.requested_at,
        request.issued_at,
    )
    .await?;
    context.metrics.jobs_done.count("erased");
    tracing::info!(
        pages = result.pages_erased,
        pages_kept = result.pages_kept,
        dead_letters = result.dead_letters,
        "a person was erased at the request of Facebook"
    );
    // A request without a confirmation code also gets a receipt. The receipt cannot be queried, but
    // the disk is scrubbed only if there are receipts.
    let random_hash = || format!("{:032x}", fastrand::u128(..));
    let hash = request
        .confirmation_hash
        .clone()
        .unwrap_or_else(random_hash);
    let receipt = ErasureReceipt {
        requested_at: request.requested_at,
        erased_at: context.clock.now(),
        scrubbed_at: None,
        result,
    };
    erasure::save_receipt(store, &hash, &receipt).await?;
    // A scrub can take longer than a stopping process waits, so it runs in its own task.
    let context = context.clone();
    tokio::spawn(async move { scrub(&context).await });
    Ok(())
}

/// Begins to remove the app from the Pages that an erasure concerns, in a task of its own, because the
/// erasure does not wait for Facebook. After a deauthorization, which has no confirmation code, the
/// tokens do not work any more.
async fn unsubscribe(context: &Context, request: &ErasureRequest) -> Result<(), StoreError> {
    let ErasureRequest {
        user,
        requested_at,
        issued_at,
        confirmation_hash,
        ..
    } = request;
    let store = &*context.store;
    let is_deauthorized = confirmation_hash.is_none();
    if is_deauthorized || erasure::is_outdated(store, user, *requested_at, *issued_at).await? {
        return Ok(());
    }
    let keys = context.keyring.keys().ok();
    let pages = Unsubscription::of_person(store, keys.as_ref(), user).await?;
    if !pages.is_empty() {
        let required = context.webhook_fields.clone();
        tokio::spawn(pages.execute(context.graph.clone(), required));
    }
    Ok(())
}

/// Removes erased data from the disk of the store, if it is time. A failure is logged.
pub(crate) async fn scrub(context: &Context) {
    if let Err(error) = erasure::scrub_store(&*context.store, context.clock.now()).await {
        tracing::error!(error = %error, "erased data may still be on the disk; the removal is retried within half an hour");
    }
}

/// Removes erased data from the disk when it is time, until the process is stopping. Erasures share
/// one removal in half a day, so that it is not made right after each of them.
pub(crate) async fn scrub_when_due(context: Context) {
    let scrubs = async {
        loop {
            scrub(&context).await;
            tokio::time::sleep(SCRUB_CHECK_INTERVAL).await;
        }
    };
    tokio::select! {
        () = context.lifecycle.stopping() => {}
        () = scrubs => {}
    }
}
