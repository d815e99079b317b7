//! The choice between the two backends of queue and store.

use std::str::FromStr;

/// A backend of the queue and the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One database file, which only one process can use.
    Embedded,
    /// RabbitMQ and Redis, which any number of processes share.
    Distributed,
}

impl FromStr for Backend {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "embedded" => Ok(Self::Embedded),
            "distributed" => Ok(Self::Distributed),
            _ => Err(()),
        }
    }
}
