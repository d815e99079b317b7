//! Fields that Graph does not have.

use common::records::{excluded_field, write_records};
use common::store::StoreError;

use crate::context::Context;

/// Leaves a field out of every read for a week.
pub(super) async fn exclude_field(context: &Context, name: &str) -> Result<(), StoreError> {
    tracing::warn!(
        field = name,
        "Graph has no such field: it is left out for a week. Is it in PAGESYNC_FIELDS by mistake?"
    );
    context.metrics.graph_replies.count("field_excluded");
    write_records(
        &*context.store,
        vec![excluded_field::exclude_write(name, context.clock.now())],
    )
    .await?;
    Ok(())
}
