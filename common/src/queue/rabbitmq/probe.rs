//! Checks whether the broker accepts messages.
//!
//! A broker that is low on memory or disk stops reading from every connection that publishes, and
//! it tells a connection so only when that connection publishes. The check therefore publishes
//! messages that no queue receives.
//!
//! One message is not enough. RabbitMQ accepts the first message of a connection that it blocks and
//! only then stops reading, so the confirm of the first message can arrive before the notification.
//! The check publishes a second message after that confirm. A broker that blocks does not read it.
//!
//! Invariant: the check has a connection of its own. On the connection of the consumers, a block
//! would also stop the acknowledgements.

use std::sync::Arc;

use futures_util::StreamExt as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, Event};
use tokio::sync::Mutex;

use super::connection::{Broker, close};
use super::deadline::{unavailable, with_timeout};
use crate::queue::error::QueueError;

/// The routing key of the messages. No queue has this name, so the broker drops them.
const ROUTING_KEY: &str = "pagesync.check";

/// The connection of the check.
#[derive(Debug)]
pub(super) struct Probe {
    broker: Arc<Broker>,
    /// The connection that the last successful check used. Locked during a check.
    open: Mutex<Option<(Connection, Channel)>>,
}

impl Probe {
    /// Returns a probe that connects at its first check.
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self {
            broker,
            open: Mutex::new(None),
        }
    }

    /// Publishes two messages that no queue receives, and waits for their confirms. Fails if the
    /// broker blocks publishers or does not answer.
    pub(super) async fn check(&self) -> Result<(), QueueError> {
        let mut open = self.open.lock().await;
        let usable = open.take().filter(|(connection, channel)| {
            connection.status().connected() && channel.status().connected()
        });
        let (connection, channel) = match usable {
            Some(usable) => usable,
            None => self.connect().await?,
        };
        match publish(&connection, &channel).await {
            Ok(()) => {
                *open = Some((connection, channel));
                Ok(())
            }
            Err(error) => {
                // The close is not awaited, because a broker that blocks does not answer it.
                tokio::spawn(async move { close(&connection).await });
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<(Connection, Channel), QueueError> {
        let connection = self.broker.connect("check").await?;
        let channel = with_timeout(connection.create_channel())
            .await?
            .map_err(|error| unavailable(&error))?;
        let confirms =
            with_timeout(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        confirms.map_err(|error| unavailable(&error))?;
        Ok((connection, channel))
    }
}

/// Publishes two messages, the second after the confirm of the first, and waits until the broker
/// confirms both or reports a block.
async fn publish(connection: &Connection, channel: &Channel) -> Result<(), QueueError> {
    let mut events = connection.events_listener();
    let blocked = async {
        while let Some(event) = events.next().await {
            if matches!(event, Event::ConnectionBlocked(_)) {
                return;
            }
        }
        // Without further events, the result of the publish decides.
        std::future::pending::<()>().await;
    };
    let published = async {
        publish_one(channel).await?;
        publish_one(channel).await
    };
    tokio::select! {
        () = blocked => Err(QueueError::Blocked),
        published = with_timeout(published) => {
            published?.map_err(|error| unavailable(&error))
        }
    }
}

/// Publishes one message and waits for its confirm.
async fn publish_one(channel: &Channel) -> Result<(), lapin::Error> {
    let confirm = channel
        .basic_publish(
            "".into(),
            ROUTING_KEY.into(),
            BasicPublishOptions::default(),
            b"",
            BasicProperties::default(),
        )
        .await?;
    confirm.await.map(drop)
}
