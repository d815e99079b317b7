//! Exclusion of fields that Graph refuses.
//!
//! Invariant: a field is excluded only if Graph named it, or if a call that requested this field alone
//! was refused.

use std::future::Future;

use common::graph::error::{ErrorKind, GraphError};
use common::records::{excluded_field, write_records};
use common::store::StoreError;

use super::error::PollError;
use crate::context::Context;

/// Excludes the field because of which Graph refused a call that requested the fields `requested`.
/// If Graph did not name one of them, `attempt` makes calls with a part of them until the field is
/// found. Fails as temporary if no part is refused any more.
pub(super) async fn exclude_refused<P>(
    context: &Context,
    named: Option<&str>,
    requested: Vec<String>,
    attempt: impl FnMut(Vec<String>) -> P,
) -> Result<(), PollError>
where
    P: Future<Output = Result<(), GraphError>>,
{
    let named = requested.iter().find(|field| Some(field.as_str()) == named);
    let refused = match named {
        Some(field) => Some(field.clone()),
        None => find_refused(requested, attempt).await?,
    };
    let Some(field) = refused else {
        let reason = "a call was refused because of a field, and then no field was refused";
        return Err(GraphError::transient(reason).into());
    };
    exclude(context, &field).await?;
    Ok(())
}

/// Returns a field that Graph refuses, by requesting one half of the remaining fields at a time.
/// Returns `None` if Graph does not refuse the last remaining field.
async fn find_refused<P>(
    mut suspects: Vec<String>,
    mut attempt: impl FnMut(Vec<String>) -> P,
) -> Result<Option<String>, GraphError>
where
    P: Future<Output = Result<(), GraphError>>,
{
    while suspects.len() > 1 {
        let rest = suspects.split_off(suspects.len() / 2);
        match attempt(suspects.clone()).await {
            Ok(()) => suspects = rest,
            Err(error) if matches!(error.kind, ErrorKind::RefusedField(_)) => {}
            Err(error) => return Err(error),
        }
    }
    match attempt(suspects.clone()).await {
        Ok(()) => Ok(None),
        Err(error) if matches!(error.kind, ErrorKind::RefusedField(_)) => Ok(suspects.pop()),
        Err(error) => Err(error),
    }
}

/// Excludes a field from all reads for a week. Fails if the store does not answer.
async fn exclude(context: &Context, name: &str) -> Result<(), StoreError> {
    tracing::warn!(
        field = name,
        "Graph refuses a field, which is excluded from reads for a week: if it is in PAGESYNC_FIELDS, check its name"
    );
    context.metrics.graph_replies.count("field_excluded");
    let write = excluded_field::exclude_write(name, context.clock.now());
    write_records(&*context.store, vec![write]).await?;
    Ok(())
}
