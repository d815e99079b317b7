//! Fields that Graph does not have.

use common::records::{quarantine, write};
use common::store::StoreError;
use common::telemetry::Metrics;

use crate::Parts;

/// Leaves a field out of every read for a week.
pub(super) async fn leave_out(parts: &Parts, name: &str) -> Result<(), StoreError> {
    tracing::warn!(
        field = name,
        "Graph has no such field: it is left out for a week. Is it in PAGESYNC_FIELDS by mistake?"
    );
    Metrics::count(&parts.metrics.graph, "field_left_out");
    write(
        &*parts.store,
        vec![quarantine::leave_out(name, parts.clock.now())],
    )
    .await?;
    Ok(())
}
