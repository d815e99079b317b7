//! The errors of requests to the simulator.

use std::fmt;

use crate::edge_names::EDGES;

/// A reason for which the simulator refuses a request of a test or an operator.
#[derive(Debug)]
pub enum SimulatorError {
    /// A Page has no `id` that is a string.
    PageWithoutId,
    /// No Page has this id.
    UnknownPage(String),
    /// A Page has no Graph field of this name.
    UnknownPageField(String),
    /// A change names the field `id`, which never changes.
    FixedPageId,
    /// No person has this id.
    UnknownPerson(String),
    /// No token belongs to the person and the Page that the request names.
    NoMatchingToken,
    /// There is no app subscription.
    NotSubscribed,
    /// This delivery fault is not a probability from 0 to 1.
    InvalidProbability(&'static str),
    /// No answer fault has this name.
    UnknownAnswerFault(String),
    /// No edge has this name.
    UnknownEdge(String),
    /// The text is not a scenario.
    InvalidScenario(serde_json::Error),
}

impl fmt::Display for SimulatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PageWithoutId => write!(f, "a Page needs an id, a string of digits"),
            Self::UnknownPage(id) => write!(f, "there is no Page {id}: see GET /_sim/pages"),
            Self::UnknownPageField(name) => write!(f, "a Page has no field {name:?}"),
            Self::FixedPageId => write!(f, "the id of a Page does not change"),
            Self::UnknownPerson(id) => write!(f, "there is no person {id}: see GET /_sim/people"),
            Self::NoMatchingToken => write!(f, "no token belongs to that person and that Page"),
            Self::NotSubscribed => write!(f, "the app is not subscribed"),
            Self::InvalidProbability(name) => {
                write!(f, "{name} must be a probability, from 0 to 1")
            }
            Self::UnknownAnswerFault(name) => write!(
                f,
                "there is no fault {name:?}: use `190/463` or `html`, for example; README.md lists all"
            ),
            Self::UnknownEdge(edge) => write!(
                f,
                "there is no edge {edge:?}: use a method and one of {}",
                EDGES.join(", ")
            ),
            Self::InvalidScenario(error) => write!(f, "not a scenario: {error}"),
        }
    }
}

impl std::error::Error for SimulatorError {}
