//! Publishing with group commit: a few slots, each with a channel of its own and one message in
//! flight. A slot takes everything that waits into one message, so one confirm answers many callers;
//! at low load a message is one job and nothing waits for company.
//!
//! Invariant: a caller is answered `Ok` only by the positive confirm of the very message that
//! carried its jobs. With two messages in flight on a channel lapin mixes up whose confirm is whose.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event};
use model::job::encode_message;
use model::queue_name::QueueName;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::{Target, close};
use super::deadline::{bounded, describe};
use super::topology::amqp_queue;
use crate::queue::error::QueueError;
use crate::queue::messages::{MAX_JOBS_PER_MESSAGE, MAX_MESSAGE_BYTES};
use crate::retry::Backoff;

/// Channels that publish at the same time.
const SLOTS: usize = 8;
/// How long a confirm may take before its channel is given up.
const CONFIRM: Duration = Duration::from_secs(3);

type Answer = Result<(), QueueError>;

struct Request {
    queue_name: QueueName,
    jobs: Vec<String>,
    bytes: usize,
    answer: oneshot::Sender<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Blocked,
    Down,
}

/// What waits to be published, and whether it may.
struct Pending {
    // Tiny critical sections, never across an await.
    requests: Mutex<VecDeque<Request>>,
    arrived: Notify,
    state: watch::Sender<State>,
}

/// The publishing half of the queue.
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
    /// Starts connecting. `ended` is cancelled when nothing is published any more.
    pub(super) fn start(target: Arc<Target>, ended: CancellationToken) -> Self {
        let state = watch::Sender::new(State::Down);
        let pending = Arc::new(Pending {
            requests: Mutex::default(),
            arrived: Notify::new(),
            state,
        });
        let stop = CancellationToken::new();
        let supervised = stop
            .clone()
            .run_until_cancelled_owned(supervise(target, pending.clone()));
        // Cancelled however the task ends, by a panic too.
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

    pub(super) fn is_up(&self) -> bool {
        *self.pending.state.borrow() == State::Up
    }

    /// Hands over jobs that fit one message. The answer comes through the channel; if it is dropped
    /// unanswered, the publisher is gone.
    pub(super) fn submit(
        &self,
        queue_name: QueueName,
        jobs: Vec<String>,
    ) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let bytes = jobs.iter().map(String::len).sum();
        self.pending.push(Request {
            queue_name,
            jobs,
            bytes,
            answer,
        });
        answered
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

    /// The breaker: from now on requests are refused at once, and so are those that wait.
    fn set(&self, state: State) {
        // Under the lock, so that no request slips in between.
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

    /// Everything that waits and may share a message: at least one request.
    async fn next_group(&self) -> Vec<Request> {
        loop {
            let group = self.take_group();
            if !group.is_empty() {
                return group;
            }
            self.arrived.notified().await;
        }
    }

    fn take_group(&self) -> Vec<Request> {
        let mut requests = self.lock();
        // Whose caller went away was answered 503: publishing it would only delay the others.
        while requests.front().is_some_and(|next| next.answer.is_closed()) {
            requests.pop_front();
        }
        let (mut group, mut jobs, mut bytes) = (Vec::<Request>::new(), 0, 0);
        while let Some(next) = requests.front() {
            let fits = next.queue_name == QueueName::Webhooks
                && group
                    .first()
                    .is_some_and(|first| first.queue_name == QueueName::Webhooks)
                && jobs + next.jobs.len() <= MAX_JOBS_PER_MESSAGE
                && bytes + next.bytes <= MAX_MESSAGE_BYTES;
            if !group.is_empty() && !fits {
                // More than one message's worth: wake another slot for the rest.
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

fn refuse(request: Request, state: State) {
    let reason = match state {
        State::Blocked => "the broker blocks publishers: it is low on memory or disk",
        State::Up | State::Down => "no connection to the broker",
    };
    let _ = request
        .answer
        .send(Err(QueueError::Unavailable(reason.to_owned())));
}

/// Keeps one connection with its slots, for ever.
async fn supervise(target: Arc<Target>, pending: Arc<Pending>) {
    let mut backoff = Backoff::default();
    loop {
        match target.connect_and_declare("publish").await {
            Ok(connection) => {
                backoff.reset();
                let reason = publish_on(&connection, &pending).await;
                pending.set(State::Down);
                tracing::warn!(reason, "the publishing connection is lost");
                // Not awaited: a broker that hangs would hold up the next attempt.
                tokio::spawn(async move { close(&connection).await });
            }
            Err(error) => tracing::warn!(error = %error, "cannot connect to the broker to publish"),
        }
        backoff.wait().await;
    }
}

/// Publishes until the connection is of no more use; says why.
async fn publish_on(connection: &Connection, pending: &Arc<Pending>) -> String {
    let mut events = connection.events_listener();
    let mut slots = JoinSet::new();
    for _ in 0..SLOTS {
        match open_channel(connection).await {
            Ok(channel) => slots.spawn(run_slot(channel, pending.clone())),
            Err(error) => return error.to_string(),
        };
    }
    pending.set(State::Up);
    let mut ended = None;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "the broker blocks publishers");
                    pending.set(State::Blocked);
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!("the broker takes messages again");
                    if let Some(reason) = ended {
                        return reason;
                    }
                    pending.set(State::Up);
                }
                Some(Event::Error(error)) => return error.to_string(),
                Some(_) => {}
                None => return "the connection has ended".to_owned(),
            },
            Some(reason) = slots.join_next() => {
                let reason = reason.unwrap_or_else(|panic| panic.to_string());
                // While the broker blocks, a new connection would be blocked too: wait here.
                if *pending.state.borrow() != State::Blocked {
                    return reason;
                }
                ended = Some(reason);
            }
        }
    }
}

async fn open_channel(connection: &Connection) -> Result<Channel, QueueError> {
    let channel = bounded(connection.create_channel())
        .await?
        .map_err(|error| describe(&error))?;
    let confirms = bounded(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    confirms.map_err(|error| describe(&error))?;
    Ok(channel)
}

/// Publishes one group after the other until something is wrong with the channel; says what.
async fn run_slot(channel: Channel, pending: Arc<Pending>) -> String {
    loop {
        let group = pending.next_group().await;
        let queue_name = group[0].queue_name;
        let body = encode_message(
            group
                .iter()
                .flat_map(|request| request.jobs.iter().map(String::as_str)),
        );
        let (answer, broken) =
            match tokio::time::timeout(CONFIRM, publish_one(&channel, queue_name, &body)).await {
                Ok(Ok(Confirmation::Ack(None))) => (Ok(()), None),
                Ok(Ok(Confirmation::Nack(_))) => (Err(QueueError::Full(queue_name)), None),
                Ok(Ok(Confirmation::Ack(Some(_)))) => {
                    broken("the queue is gone: the message came back")
                }
                Ok(Ok(Confirmation::NotRequested)) => broken("the channel gives no confirms"),
                Ok(Err(error)) => broken(&error.to_string()),
                Err(_) => broken("no confirm in time"),
            };
        for request in group {
            let _ = request.answer.send(answer.clone());
        }
        if let Some(reason) = broken {
            return reason;
        }
    }
}

fn broken(reason: &str) -> (Answer, Option<String>) {
    (
        Err(QueueError::Unavailable(reason.to_owned())),
        Some(reason.to_owned()),
    )
}

async fn publish_one(
    channel: &Channel,
    queue_name: QueueName,
    body: &str,
) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_type("pagesync.jobs.v1".into());
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
