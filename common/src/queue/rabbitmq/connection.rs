//! Connecting to the broker, with our deadlines: lapin has none.

use lapin::{Connection, ConnectionProperties};

use super::deadline::{bounded, describe};
use super::topology;
use crate::queue::error::QueueError;

/// Seconds between heartbeats: a dead peer is noticed after two.
const HEARTBEAT: u16 = 8;

/// Which broker, and what we call ourselves there.
pub(super) struct Target {
    uri: lapin::uri::AMQPUri,
    role: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URI holds the password.
        f.debug_struct("Target")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl Target {
    pub(super) fn new(uri: &str, role: &str) -> Result<Self, QueueError> {
        let parsed: Result<lapin::uri::AMQPUri, String> = uri.parse();
        let mut uri = parsed.map_err(|_| {
            QueueError::Unavailable(
                "the broker's address is not of the form amqp://user:password@host:5672/vhost"
                    .to_owned(),
            )
        })?;
        uri.query.heartbeat = Some(HEARTBEAT);
        Ok(Self {
            uri,
            role: role.to_owned(),
        })
    }

    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection, QueueError> {
        let name = format!("pagesync {} {purpose}", self.role);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        bounded(Connection::connect_uri(self.uri.clone(), properties))
            .await?
            .map_err(|error| describe(&error))
    }

    pub(super) async fn connect_and_declare(
        &self,
        purpose: &str,
    ) -> Result<Connection, QueueError> {
        let connection = self.connect(purpose).await?;
        let channel = bounded(connection.create_channel())
            .await?
            .map_err(|error| describe(&error))?;
        topology::declare(&channel).await?;
        let _ = bounded(channel.close(200, "declared".into())).await;
        Ok(connection)
    }
}

/// Closes in order if the broker takes part; else the socket goes with the last handle.
pub(super) async fn close(connection: &Connection) {
    let _ = bounded(connection.close(200, "bye".into())).await;
}
