//! The read of the fields of one Page with one token.
//!
//! Invariant: a field that Graph refuses is excluded, and the rest is read at once.

use common::graph::calls::PageReply;
use common::graph::error::{ErrorKind, GraphError};
use common::records::excluded_field;
use common::sealing::Token;
use model::field::FieldName;
use model::id::PageId;
use model::time::FacebookTime;
use serde_json::{Map, Value as Json};

use super::error::PollError;
use super::excluded_field::exclude_refused;
use crate::context::Context;

/// How many fields Graph may refuse in one read before the read fails.
const MAX_REFUSED_FIELDS: usize = 30;

/// A Page as Graph returned it.
pub(super) struct PageValues {
    /// The object with the fields of the Page.
    pub(super) object: Map<String, Json>,
    /// A lower bound of the instant at which Graph answered.
    pub(super) stamp: FacebookTime,
    /// The fields that were requested.
    pub(super) requested_fields: Vec<FieldName>,
}

/// Reads all tracked fields that are not excluded. If Graph refuses a field, the field is excluded and
/// the read is repeated.
pub(super) async fn read_fields(
    context: &Context,
    id: &PageId,
    token: &Token,
) -> Result<PageValues, PollError> {
    let tracked: Vec<FieldName> = context.tracked_fields.iter().cloned().collect();
    for _ in 0..MAX_REFUSED_FIELDS {
        let excluded = excluded_field::excluded_names(&*context.store).await?;
        let requested_fields = excluded_field::without_excluded(&tracked, &excluded);
        match context.graph.read_page(token, id, &requested_fields).await {
            Err(GraphError {
                kind: ErrorKind::RefusedField(named),
                ..
            }) => {
                let names = requested_fields.iter().map(ToString::to_string).collect();
                let attempt = async |names: Vec<String>| {
                    let fields = tracked
                        .iter()
                        .filter(|field| names.iter().any(|name| name == field.as_str()));
                    let fields: Vec<FieldName> = fields.cloned().collect();
                    let read = context.graph.read_page(token, id, &fields).await;
                    read.map(drop)
                };
                exclude_refused(context, named.as_deref(), names, attempt).await?;
            }
            Ok(PageReply {
                object,
                stamp: Ok(stamp),
            }) => {
                return Ok(PageValues {
                    object,
                    stamp,
                    requested_fields,
                });
            }
            Ok(PageReply {
                stamp: Err(reason), ..
            }) => return Err(GraphError::unexpected(reason.to_string()).into()),
            Err(error) => return Err(error.into()),
        }
    }
    let reason = "Graph refuses too many fields";
    Err(GraphError::unexpected(reason).into())
}
