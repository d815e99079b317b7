//! The AMQP queues and their arguments, version 2.
//!
//! Invariant: the arguments of a version never change. A broker refuses to declare an existing
//! queue with other arguments, and pagesync deletes no queue. New arguments need a version 3 with
//! new names.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ErrorKind};
use model::queue_name::QueueName;

use super::deadline::{unavailable, with_timeout};
use crate::queue::error::QueueError;

/// The dead-letter queue, which receives messages that exceed [`DELIVERY_LIMIT`].
pub(super) const DEAD_LETTER_QUEUE: &str = "pagesync.v2.dead";
/// How often a message can be requeued before the broker moves it to the dead-letter queue. The
/// limit is declared because its default differs between versions of RabbitMQ. It must not be -1,
/// with which RabbitMQ 3.10 moves a message when it is first requeued.
const DELIVERY_LIMIT: i64 = 20;
/// The limit of the dead-letter queue. Beyond it the broker drops a message, because it has nowhere
/// to move it to. Without a declared limit, RabbitMQ 4 drops it after 20 deliveries.
const DEAD_LETTER_DELIVERY_LIMIT: i64 = 1_000_000;
/// The queues of version 1, which no released version of pagesync used.
const QUEUES_OF_VERSION_1: [&str; 4] = [
    "pagesync.v1.webhooks",
    "pagesync.v1.polls_now",
    "pagesync.v1.polls_daily",
    "pagesync.v1.dead",
];

/// Returns the name of the AMQP queue for a queue of jobs.
pub(super) fn amqp_queue(queue_name: QueueName) -> String {
    format!("pagesync.v2.{}", queue_name.as_str())
}

/// Returns the maximum size of an AMQP queue in bytes.
fn max_bytes(queue_name: QueueName) -> i64 {
    match queue_name {
        QueueName::Webhooks => 2 << 30,
        QueueName::Logins | QueueName::PollsNow | QueueName::PollsDaily => 256 << 20,
        QueueName::Forwards => 8 << 30,
    }
}

fn arguments(max_bytes: i64, delivery_limit: i64) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    arguments.insert(
        "x-max-length-bytes".into(),
        AMQPValue::LongLongInt(max_bytes),
    );
    arguments.insert(
        "x-delivery-limit".into(),
        AMQPValue::LongLongInt(delivery_limit),
    );
    arguments
}

/// Declares all AMQP queues, so that no publish finds its queue missing.
pub(super) async fn declare(channel: &Channel) -> Result<(), QueueError> {
    let dead_letters = arguments(1 << 30, DEAD_LETTER_DELIVERY_LIMIT);
    declare_one(channel, DEAD_LETTER_QUEUE, dead_letters).await?;
    for queue_name in QueueName::ALL {
        let mut arguments = with_dead_letters(arguments(max_bytes(queue_name), DELIVERY_LIMIT));
        if queue_name == QueueName::Forwards {
            // The deliveries of a Page keep their order only with one receiver.
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        }
        declare_one(channel, &amqp_queue(queue_name), arguments).await?;
    }
    Ok(())
}

/// Adds the arguments that move a message to the dead-letter queue.
fn with_dead_letters(mut arguments: FieldTable) -> FieldTable {
    for (name, value) in [
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-routing-key", DEAD_LETTER_QUEUE),
        ("x-dead-letter-strategy", "at-least-once"),
    ] {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    arguments
}

/// Returns the queues of version 1 that exist, each with its number of messages.
pub(super) async fn leftover_queues(
    connection: &Connection,
) -> Result<Vec<(&'static str, u32)>, QueueError> {
    let mut found = Vec::new();
    for name in QUEUES_OF_VERSION_1 {
        // The broker closes the channel if the queue does not exist.
        let channel = with_timeout(connection.create_channel())
            .await?
            .map_err(|error| unavailable(&error))?;
        let passive = QueueDeclareOptions::durable().passive();
        let declared =
            with_timeout(channel.queue_declare(name.into(), passive, FieldTable::default()))
                .await?;
        if let Ok(queue) = declared {
            found.push((name, queue.message_count()));
            let _ = with_timeout(channel.close(200, "done".into())).await;
        }
    }
    Ok(found)
}

async fn declare_one(
    channel: &Channel,
    name: &str,
    arguments: FieldTable,
) -> Result<(), QueueError> {
    let declared =
        with_timeout(channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments))
            .await?;
    match declared {
        Ok(_) => Ok(()),
        // 406: the queue exists with other arguments. The broker's text names them.
        Err(error) => Err(match error.kind() {
            ErrorKind::ProtocolError(amqp) if amqp.get_id() == 406 => {
                QueueError::Mismatch(format!(
                    "{name}: {}; drain and delete the queue, or use another vhost",
                    amqp.get_message()
                ))
            }
            _ => unavailable(&error),
        }),
    }
}
