//! Exclusion of fields that Graph does not know.

use common::records::{excluded_field, write_records};
use common::store::StoreError;

use crate::context::Context;

/// Excludes a field from all reads for a week. Fails if the store does not answer.
pub(super) async fn exclude_field(context: &Context, name: &str) -> Result<(), StoreError> {
    tracing::warn!(
        field = name,
        "Graph does not know a field, which is excluded from reads for a week: check its name in PAGESYNC_FIELDS"
    );
    context.metrics.graph_replies.count("field_excluded");
    write_records(
        &*context.store,
        vec![excluded_field::exclude_write(name, context.clock.now())],
    )
    .await?;
    Ok(())
}
