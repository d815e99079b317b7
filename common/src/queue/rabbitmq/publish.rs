//! The publisher: a few publishing channels, each with at most one message in flight.
//!
//! A publishing channel puts the webhook jobs of all waiting callers into one message, so that one
//! confirm serves many callers. An idle channel publishes at once and does not wait for further
//! jobs.
//!
//! Invariant: a caller gets `Ok` only after the positive confirm of the message that contains its
//! jobs. With two messages in flight on one channel, lapin can assign a confirm to the wrong
//! message.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event};
use model::forward::FORWARD_RETENTION;
use model::job::encode_message;
use model::queue_name::QueueName;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::{Broker, close};
use super::deadline::{unavailable, with_timeout};
use super::topology::amqp_queue;
use crate::queue::error::QueueError;
use crate::queue::messages::{MAX_MESSAGE_BYTES, max_jobs};
use crate::retry::Backoff;

/// The number of publishing channels.
const PUBLISH_CHANNELS: usize = 8;
/// How long a publishing channel waits for a confirm. After that the connection is replaced.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

type PublishResult = Result<(), QueueError>;

/// The jobs of one caller, which fit one message.
struct Request {
    queue_name: QueueName,
    jobs: Vec<String>,
    bytes: usize,
    result: oneshot::Sender<PublishResult>,
}

/// The state of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// The broker blocks publishers.
    Blocked,
    Down,
}

/// The requests that wait for a publishing channel, and the state of the connection.
struct Pending {
    /// Never locked across an await.
    requests: Mutex<VecDeque<Request>>,
    /// Wakes a publishing channel.
    arrived: Notify,
    state: watch::Sender<State>,
}

/// A handle to the publishing task, which ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Publisher {
    pending: Arc<Pending>,
    _stop: DropGuard,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending")
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// Starts the publishing task, which connects to the broker. `ended` is cancelled when the task
    /// ends.
    pub(super) fn start(broker: Arc<Broker>, ended: CancellationToken) -> Self {
        let state = watch::Sender::new(State::Down);
        let pending = Arc::new(Pending {
            requests: Mutex::default(),
            arrived: Notify::new(),
            state,
        });
        let stop = CancellationToken::new();
        let supervised = stop
            .clone()
            .run_until_cancelled_owned(supervise(broker, pending.clone()));
        // The guard also cancels `ended` if the task panics.
        let guard = ended.drop_guard();
        tokio::spawn(async move {
            let _ended = guard;
            supervised.await;
        });
        Self {
            pending,
            _stop: stop.drop_guard(),
        }
    }

    /// Returns whether publishes are possible now.
    pub(super) fn is_up(&self) -> bool {
        *self.pending.state.borrow() == State::Up
    }

    /// Submits jobs that fit one message. The result is sent to the receiver. If the connection is
    /// lost before the confirm, the receiver is closed without a result.
    pub(super) fn submit(
        &self,
        queue_name: QueueName,
        jobs: Vec<String>,
    ) -> oneshot::Receiver<PublishResult> {
        let (result, receiver) = oneshot::channel();
        let bytes = jobs.iter().map(String::len).sum();
        self.pending.push(Request {
            queue_name,
            jobs,
            bytes,
            result,
        });
        receiver
    }
}

impl Pending {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, request: Request) {
        let mut requests = self.lock();
        match *self.state.borrow() {
            State::Up => {
                requests.push_back(request);
                drop(requests);
                self.arrived.notify_one();
            }
            state => {
                drop(requests);
                refuse(request, state);
            }
        }
    }

    /// Changes the state. In a state other than `Up`, waiting and later requests fail at once.
    fn set_state(&self, state: State) {
        // The state changes under the lock, so that no request is added after the refusals.
        let mut requests = self.lock();
        self.state.send_replace(state);
        let refused = if state == State::Up {
            VecDeque::new()
        } else {
            std::mem::take(&mut *requests)
        };
        drop(requests);
        for request in refused {
            refuse(request, state);
        }
    }

    /// Waits for the requests of the next message and returns them: at least one.
    async fn next_group(&self) -> Vec<Request> {
        loop {
            let group = self.pop_group();
            if !group.is_empty() {
                return group;
            }
            self.arrived.notified().await;
        }
    }

    /// Removes and returns the requests of the next message; none if no request waits.
    fn pop_group(&self) -> Vec<Request> {
        let mut requests = self.lock();
        // Skip requests whose caller no longer waits: they would only delay the others.
        while requests.front().is_some_and(|next| next.result.is_closed()) {
            requests.pop_front();
        }
        let (mut group, mut jobs, mut bytes) = (Vec::<Request>::new(), 0, 0);
        while let Some(next) = requests.front() {
            let fits = group
                .first()
                .is_some_and(|first| first.queue_name == next.queue_name)
                && jobs + next.jobs.len() <= max_jobs(next.queue_name)
                && bytes + next.bytes <= MAX_MESSAGE_BYTES;
            if !group.is_empty() && !fits {
                // The rest needs another message: wake another publishing channel.
                self.arrived.notify_one();
                break;
            }
            jobs += next.jobs.len();
            bytes += next.bytes;
            group.extend(requests.pop_front());
        }
        group
    }
}

/// Fails a request because of the state of the connection.
fn refuse(request: Request, state: State) {
    let error = match state {
        State::Blocked => QueueError::Blocked,
        State::Up | State::Down => {
            QueueError::Unavailable("there is no connection to the broker".to_owned())
        }
    };
    let _ = request.result.send(Err(error));
}

/// Publishes on one connection after another, forever.
async fn supervise(broker: Arc<Broker>, pending: Arc<Pending>) {
    let mut backoff = Backoff::default();
    loop {
        match broker.connect_and_declare("publish").await {
            Ok(connection) => {
                backoff.reset();
                let reason = publish_on(&connection, &pending).await;
                pending.set_state(State::Down);
                tracing::warn!(reason, "the connection for publishing was lost");
                // The close is not awaited, because a broker that does not answer would delay the
                // next attempt.
                tokio::spawn(async move { close(&connection).await });
            }
            Err(error) => tracing::warn!(error = %error, "cannot connect to the broker to publish"),
        }
        backoff.wait().await;
    }
}

/// Publishes on a connection until the connection or one of its channels fails. Returns the reason.
async fn publish_on(connection: &Connection, pending: &Arc<Pending>) -> String {
    let mut events = connection.events_listener();
    let mut channels = JoinSet::new();
    for _ in 0..PUBLISH_CHANNELS {
        match open_channel(connection).await {
            Ok(channel) => channels.spawn(run_channel(channel, pending.clone())),
            Err(error) => return error.to_string(),
        };
    }
    pending.set_state(State::Up);
    let mut end_reason = None;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "the broker blocks publishers");
                    pending.set_state(State::Blocked);
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!("the broker accepts messages again");
                    if let Some(reason) = end_reason {
                        return reason;
                    }
                    pending.set_state(State::Up);
                }
                Some(Event::Error(error)) => return error.to_string(),
                Some(_) => {}
                None => return "the connection has ended".to_owned(),
            },
            Some(reason) = channels.join_next() => {
                let reason = reason.unwrap_or_else(|panic| panic.to_string());
                // The broker would block a new connection too: reconnect after the block has ended.
                if *pending.state.borrow() != State::Blocked {
                    return reason;
                }
                end_reason = Some(reason);
            }
        }
    }
}

/// Opens a channel with publisher confirms.
async fn open_channel(connection: &Connection) -> Result<Channel, QueueError> {
    let channel = with_timeout(connection.create_channel())
        .await?
        .map_err(|error| unavailable(&error))?;
    let confirms = with_timeout(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    confirms.map_err(|error| unavailable(&error))?;
    Ok(channel)
}

/// Publishes one group of requests after another until the channel fails. Returns the reason of the
/// failure.
async fn run_channel(channel: Channel, pending: Arc<Pending>) -> String {
    loop {
        let group = pending.next_group().await;
        let queue_name = group[0].queue_name;
        let body = encode_message(
            group
                .iter()
                .flat_map(|request| request.jobs.iter().map(String::as_str)),
        );
        let published = publish_one(&channel, queue_name, &body);
        let (result, failure) = match tokio::time::timeout(CONFIRM_TIMEOUT, published).await {
            Ok(Ok(Confirmation::Ack(None))) => (Ok(()), None),
            // The broker rejects a message if its queue is full.
            Ok(Ok(Confirmation::Nack(_))) => (Err(QueueError::Full(queue_name)), None),
            Ok(Ok(Confirmation::Ack(Some(_)))) => {
                channel_failure("the broker returned the message: its queue does not exist")
            }
            Ok(Ok(Confirmation::NotRequested)) => {
                channel_failure("the channel has no publisher confirms")
            }
            Ok(Err(error)) => channel_failure(&error.to_string()),
            Err(_) => channel_failure("the broker did not confirm the message in time"),
        };
        for request in group {
            let _ = request.result.send(result.clone());
        }
        if let Some(reason) = failure {
            return reason;
        }
    }
}

/// Returns the result for the callers and the reason that ends the publishing channel.
fn channel_failure(reason: &str) -> (PublishResult, Option<String>) {
    (
        Err(QueueError::Unavailable(reason.to_owned())),
        Some(reason.to_owned()),
    )
}

/// Publishes one persistent message and waits for its confirm.
async fn publish_one(
    channel: &Channel,
    queue_name: QueueName,
    body: &str,
) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let mut properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_type("pagesync.jobs.v1".into());
    if queue_name == QueueName::Forwards {
        // The broker moves a message to the dead-letter queue then, and a worker deletes it there.
        let expiration = FORWARD_RETENTION.as_millis().to_string();
        properties = properties.with_expiration(expiration.into());
    }
    channel
        .basic_publish(
            "".into(),
            amqp_queue(queue_name).into(),
            options,
            body.as_bytes(),
            properties,
        )
        .await?
        .await
}
