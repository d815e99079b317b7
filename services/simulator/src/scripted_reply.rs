//! Replies that replace the next answers of Graph.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::edge_names;
use crate::errors;
use crate::simulator_error::SimulatorError;

/// A reply that replaces the next real answers of one edge, wholly or in part.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedReply {
    /// The edge whose answers are replaced, named as in `GET /_sim/calls`.
    pub edge: String,
    /// The number of answers that are replaced; 1 by default.
    #[serde(default = "once")]
    pub times: u32,
    /// The HTTP status; 200 by default. Without `body`, 200 keeps the status of the real answer.
    #[serde(default = "ok")]
    pub status: u16,
    /// Headers that are added or replaced. A null value removes a header.
    #[serde(default)]
    pub headers: BTreeMap<String, Option<String>>,
    /// The body. A string is sent unchanged, any other value as JSON. If this is absent, the real
    /// body is sent.
    #[serde(default)]
    pub body: Option<Value>,
    /// Fields that are set in the object of the real body or in every object of its list. A null value
    /// removes the field.
    #[serde(default)]
    pub patch: Map<String, Value>,
    /// How many spaces are sent before the body.
    #[serde(default)]
    pub padding: usize,
    /// The fault of the answer, a name that [`AnswerFault::parse`](errors::AnswerFault::parse)
    /// accepts.
    #[serde(default)]
    pub fault: Option<String>,
}

fn once() -> u32 {
    1
}

fn ok() -> u16 {
    200
}

/// Fails if a reply names an unknown fault.
pub(crate) fn check_faults(replies: &[ScriptedReply]) -> Result<(), SimulatorError> {
    errors::check_fault_names(replies.iter().filter_map(|reply| reply.fault.as_ref()))
}

/// Fails if a reply names an unknown edge, because such a reply would never be sent.
pub(crate) fn check_edges(replies: &[ScriptedReply]) -> Result<(), SimulatorError> {
    match replies
        .iter()
        .find(|reply| !edge_names::is_counted(&reply.edge))
    {
        None => Ok(()),
        Some(reply) => Err(SimulatorError::UnknownEdge(reply.edge.clone())),
    }
}
