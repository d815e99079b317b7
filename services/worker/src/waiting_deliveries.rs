//! Writes the records of deliveries that wait to be forwarded.
//!
//! Invariant: a record is written before it is checked whether a Page of the delivery was erased, so that an
//! erasure either finds the record or is found.

use std::time::Duration;

use common::records::waiting_delivery::{self, WaitingDelivery};
use common::records::write_records;
use common::store::{Store, StoreError, StoredPage};
use model::forward::ForwardedDelivery;
use model::page::Status;

use crate::context::Context;

/// How long after its record was written a delivery is sent again.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Stores deliveries that the queue has given up, unless they have expired or one of their Pages was
/// erased.
pub(crate) async fn store_waiting(
    context: &Context,
    deliveries: Vec<ForwardedDelivery>,
) -> Result<(), StoreError> {
    let now = context.clock.now();
    for delivery in deliveries {
        if delivery.has_expired(now) {
            context.metrics.forwarded_deliveries.count("expired");
        } else {
            save_record(context, &delivery).await?;
        }
    }
    Ok(())
}

/// Writes the record of a delivery, unless one of its Pages was erased.
pub(crate) async fn save_record(
    context: &Context,
    delivery: &ForwardedDelivery,
) -> Result<(), StoreError> {
    let (store, now) = (&*context.store, context.clock.now());
    let waiting = WaitingDelivery {
        delivery: delivery.clone(),
        failures: 0,
        retry_at: now.plus(FIRST_RETRY),
    };
    write_records(store, vec![waiting_delivery::write(&waiting, None, now)]).await?;
    if is_erased(store, delivery).await? {
        write_records(store, vec![waiting_delivery::remove_write(delivery)]).await?;
    }
    context.metrics.forwarded_deliveries.count("stored");
    Ok(())
}

/// Returns whether a Page of a delivery was erased after the delivery was received.
pub(crate) async fn is_erased(
    store: &dyn Store,
    delivery: &ForwardedDelivery,
) -> Result<bool, StoreError> {
    if delivery.pages.is_empty() {
        return Ok(false);
    }
    let loaded = store.load_pages(&delivery.pages).await?;
    let mut loaded = loaded.iter().map(|stored| &stored.value);
    Ok(loaded.any(|stored| match stored {
        StoredPage::Page(page) if page.status == Status::Erased => page
            .erasure_requested_at
            .is_none_or(|at| at >= delivery.received_at),
        _ => false,
    }))
}
