//! Connections to the broker. Each step has a deadline, because lapin sets none.

use lapin::{Connection, ConnectionProperties};

use super::deadline::{unavailable, with_timeout};
use super::topology;
use crate::queue::error::QueueError;

/// The heartbeat interval in seconds. A dead peer is detected after two intervals.
const HEARTBEAT_SECONDS: u16 = 8;

/// The address of the broker, and the role that is part of the names of connections to it.
pub(super) struct Broker {
    uri: lapin::uri::AMQPUri,
    role: String,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URI contains the password.
        f.debug_struct("Broker")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// Parses the address. Fails if it is malformed.
    pub(super) fn new(uri: &str, role: &str) -> Result<Self, QueueError> {
        let parsed: Result<lapin::uri::AMQPUri, String> = uri.parse();
        let mut uri = parsed.map_err(|_| {
            QueueError::Unavailable(
                "PAGESYNC_RABBITMQ_URL is not of the form amqp://user:password@host:5672/vhost"
                    .to_owned(),
            )
        })?;
        uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
        Ok(Self {
            uri,
            role: role.to_owned(),
        })
    }

    /// Connects. The name of the connection contains the role and `purpose`.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection, QueueError> {
        let name = format!("pagesync {} {purpose}", self.role);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        with_timeout(Connection::connect_uri(self.uri.clone(), properties))
            .await?
            .map_err(|error| unavailable(&error))
    }

    /// Connects and declares all AMQP queues.
    pub(super) async fn connect_and_declare(
        &self,
        purpose: &str,
    ) -> Result<Connection, QueueError> {
        let connection = self.connect(purpose).await?;
        let channel = with_timeout(connection.create_channel())
            .await?
            .map_err(|error| unavailable(&error))?;
        topology::declare(&channel).await?;
        let _ = with_timeout(channel.close(200, "declared".into())).await;
        Ok(connection)
    }
}

/// Closes a connection. If the broker does not answer, the socket closes with the last handle.
pub(super) async fn close(connection: &Connection) {
    let _ = with_timeout(connection.close(200, "closing".into())).await;
}
