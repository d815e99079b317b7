//! The AMQP queues and their arguments, version 1.
//!
//! Invariant: the arguments of a version never change. A broker refuses to declare an existing
//! queue with other arguments, and pagesync deletes no queue. New arguments need a version 2 with
//! new names.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind};
use model::queue_name::QueueName;

use super::deadline::{unavailable, with_timeout};
use crate::queue::error::QueueError;

/// The dead-letter queue, which receives messages that exceed [`DELIVERY_LIMIT`].
pub(super) const DEAD_LETTER_QUEUE: &str = "pagesync.v1.dead";
/// How often a message can be requeued before the broker moves it to the dead-letter queue. The
/// limit is declared because its default differs between versions of RabbitMQ. It must not be -1,
/// with which RabbitMQ 3.10 moves a message when it is first requeued.
const DELIVERY_LIMIT: i64 = 20;

/// Returns the name of the AMQP queue for a queue of jobs.
pub(super) fn amqp_queue(queue_name: QueueName) -> String {
    format!("pagesync.v1.{}", queue_name.as_str())
}

/// Returns the maximum size of an AMQP queue in bytes.
fn max_bytes(queue_name: QueueName) -> i64 {
    match queue_name {
        QueueName::Webhooks => 2 << 30,
        QueueName::PollsNow | QueueName::PollsDaily => 256 << 20,
    }
}

fn arguments(max_bytes: i64) -> FieldTable {
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
    arguments
}

/// Declares all AMQP queues, so that no publish finds its queue missing.
pub(super) async fn declare(channel: &Channel) -> Result<(), QueueError> {
    declare_one(channel, DEAD_LETTER_QUEUE, arguments(1 << 30)).await?;
    for queue_name in QueueName::ALL {
        let mut arguments = arguments(max_bytes(queue_name));
        arguments.insert(
            "x-delivery-limit".into(),
            AMQPValue::LongLongInt(DELIVERY_LIMIT),
        );
        arguments.insert(
            "x-dead-letter-exchange".into(),
            AMQPValue::LongString("".into()),
        );
        arguments.insert(
            "x-dead-letter-routing-key".into(),
            AMQPValue::LongString(DEAD_LETTER_QUEUE.into()),
        );
        arguments.insert(
            "x-dead-letter-strategy".into(),
            AMQPValue::LongString("at-least-once".into()),
        );
        declare_one(channel, &amqp_queue(queue_name), arguments).await?;
    }
    Ok(())
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
