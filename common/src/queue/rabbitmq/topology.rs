//! The queues and their arguments, version 1. A change of any argument is a version 2 beside it: a
//! broker refuses to redeclare a queue with other arguments, and nothing here deletes one.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind};
use model::queue_name::QueueName;

use super::deadline::{bounded, describe};
use crate::queue::error::QueueError;

/// Where the broker puts what it delivered too often.
pub(super) const DEAD: &str = "pagesync.v1.dead";
/// After this many returns the broker itself gives up on a message. Declared because the default
/// differs between versions, and never -1: that means "at once" on 3.10.
const DELIVERY_LIMIT: i64 = 20;

/// The queue of a queue.
pub(super) fn amqp_queue(queue_name: QueueName) -> String {
    format!("pagesync.v1.{}", queue_name.as_str())
}

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

/// Declares every queue, so that a publish never meets a missing one.
pub(super) async fn declare(channel: &Channel) -> Result<(), QueueError> {
    declare_one(channel, DEAD, arguments(1 << 30)).await?;
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
            AMQPValue::LongString(DEAD.into()),
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
        bounded(channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments))
            .await?;
    match declared {
        Ok(_) => Ok(()),
        // 406: it is there with other arguments. The broker's text says which.
        Err(error) => Err(match error.kind() {
            ErrorKind::ProtocolError(amqp) if amqp.get_id() == 406 => {
                QueueError::Mismatch(format!(
                    "{name}: {}. Drain and delete it, or point pagesync at another vhost",
                    amqp.get_message()
                ))
            }
            _ => describe(&error),
        }),
    }
}
