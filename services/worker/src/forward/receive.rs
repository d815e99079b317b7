//! Receives messages of deliveries from the queue.
//!
//! Invariants: the turns of the deliveries are taken in the order in which the queue delivers them. While
//! the program is down, or the store does not answer, no message is received.

use std::sync::Arc;
use std::time::Duration;

use common::queue::delivery::Delivery;
use common::queue::error::QueueError;
use common::retry::Backoff;
use common::store::StoreError;
use model::forward::ForwardedDelivery;
use model::job::Job;
use model::queue_name::QueueName;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::deliver::Outcome;
use super::forwarder::{Forwarder, Turn};
use crate::acknowledge::acknowledge;
use crate::consumer::recovers_soon;
use crate::dispatch::apply_each_job;

/// How long a message is held while the program does not accept its deliveries.
const HOLD: Duration = Duration::from_secs(60);

/// How long a message is held whose deliveries need stored data that cannot be read.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(30);

/// A received message, with the turns of its deliveries.
struct Message {
    delivery: Delivery,
    turns: Vec<(ForwardedDelivery, Turn)>,
    deadline: Instant,
    /// The number of store outages when the message was received.
    outages: u64,
    _permit: OwnedSemaphorePermit,
}

/// Receives and handles messages until `ended`.
pub(super) async fn receive_all(forwarder: Arc<Forwarder>, ended: CancellationToken) {
    let mut tasks = JoinSet::new();
    let mut backoff = Backoff::default();
    while !ended.is_cancelled() {
        while let Some(handled) = tasks.try_join_next() {
            report_panic(&handled);
        }
        if forwarder.health.is_down() {
            tokio::select! {
                () = ended.cancelled() => {}
                () = wait_while_down(&forwarder, &mut tasks) => {}
            }
            continue;
        }
        let next = receive_one(&forwarder);
        let received = tokio::select! {
            () = ended.cancelled() => break,
            () = forwarder.health.wait_until(true) => continue,
            () = forwarder.gate.wait_until_paused() => {
                forwarder.gate.wait_until_open().await;
                continue;
            }
            received = next => received,
        };
        match received {
            Ok(message) => {
                backoff.reset();
                tasks.spawn(handle(forwarder.clone(), message, ended.clone()));
            }
            Err(QueueError::Stopped) => break,
            Err(error) => {
                if forwarder.context.receive_errors.allows() {
                    tracing::warn!(error = %error, "cannot receive deliveries to forward; the worker tries again, and logs this once a minute");
                }
                tokio::select! {
                    () = ended.cancelled() => break,
                    () = backoff.wait() => {}
                }
            }
        }
    }
    while let Some(handled) = tasks.join_next().await {
        report_panic(&handled);
    }
}

/// Waits until the program is not down any more. When the messages that are held have come to their end,
/// those that the queue has delivered in advance are given back.
async fn wait_while_down(forwarder: &Forwarder, tasks: &mut JoinSet<()>) {
    let given_back = async {
        while let Some(handled) = tasks.join_next().await {
            report_panic(&handled);
        }
        forwarder.give_back_messages().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = forwarder.health.wait_until(false) => {}
        () = given_back => {}
    }
}

async fn receive_one(forwarder: &Forwarder) -> Result<Message, QueueError> {
    let outages = forwarder.gate.wait_until_open().await;
    let permit = forwarder.places.clone().acquire_owned().await;
    let permit = permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed"));
    let delivery = forwarder.context.queue.receive(QueueName::Forwards).await?;
    let turns = delivery.jobs.iter().filter_map(|job| match job {
        Job::Forward(one) => Some((one.clone(), forwarder.take_turn(&one.pages))),
        _ => None,
    });
    Ok(Message {
        turns: turns.collect(),
        delivery,
        deadline: Instant::now() + HOLD,
        outages,
        _permit: permit,
    })
}

fn report_panic(handled: &Result<(), tokio::task::JoinError>) {
    if handled.is_err() {
        tracing::error!(
            "a task panicked while it forwarded deliveries; the queue delivers their message again"
        );
    }
}

/// Handles a message, and acknowledges it if each of its deliveries came to its end. Otherwise the queue
/// delivers it again.
async fn handle(forwarder: Arc<Forwarder>, message: Message, ended: CancellationToken) {
    let Message {
        delivery,
        turns,
        deadline,
        outages,
        _permit,
    } = message;
    let others: Vec<Job> = delivery
        .jobs
        .iter()
        .filter(|job| !matches!(job, Job::Forward(_)))
        .cloned()
        .collect();
    let sends = turns.into_iter().map(|(one, turn)| {
        let (forwarder, ended) = (&forwarder, &ended);
        async move { forwarder.deliver(&one, turn, deadline, ended).await }
    });
    let sent = futures_util::future::try_join_all(sends);
    let outcomes: Result<Vec<Outcome>, StoreError> = async {
        // Jobs of a newer version become dead letters.
        apply_each_job(&forwarder.context, &others).await?;
        sent.await
    }
    .await;
    match outcomes {
        Ok(outcomes) if outcomes.iter().all(|one| *one == Outcome::Finished) => {
            acknowledge(&forwarder.context, delivery).await;
        }
        Ok(_) => drop(delivery),
        // The delivery is given back, and the changes of Pages go on.
        Err(error) if !error.is_outage() => {
            tracing::error!(error = %error, "deliveries could not be forwarded; the queue delivers them again");
            tokio::select! {
                () = ended.cancelled() => {}
                () = tokio::time::sleep(PAUSE_AFTER_ERROR) => {}
            }
            drop(delivery);
        }
        Err(_) if recovers_soon(&forwarder.context).await => drop(delivery),
        Err(error) => {
            tracing::warn!(error = %error, "the store does not answer, so deliveries cannot be forwarded; processing is paused");
            let lifecycle = forwarder.context.lifecycle.clone();
            forwarder
                .gate
                .pause_until_recovered(&forwarder.context, &lifecycle, outages)
                .await;
            drop(delivery);
        }
    }
}
