//! The choice of backend.

use std::str::FromStr;

/// Where queue and store are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One file, one process.
    Embedded,
    /// RabbitMQ and Redis.
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
