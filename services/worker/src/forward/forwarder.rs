//! The state of forwarding in one worker.
//!
//! Invariant: the turns of a Page are in the order in which they were taken.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::config::forward::ForwardConfig;
use common::delivery_sealing::DeliveryOpener;
use common::log_limit::LogLimit;
use common::queue::FORWARD_CONCURRENCY;
use common::records::forwarding;
use common::store::StoreError;
use model::id::PageId;
use model::queue_name::QueueName;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::health::Health;
use super::send::Sender;
use crate::context::Context;
use crate::outage::ProcessingGate;

/// How many deliveries are sent at a time.
const MAX_SENDS: usize = 64;
/// How many Pages may have a turn before the turns that are over are forgotten.
const MAX_TURNS: usize = 4096;

/// Forwards deliveries in one worker.
#[derive(Debug)]
pub(super) struct Forwarder {
    pub(super) context: Context,
    pub(super) gate: Arc<ProcessingGate>,
    pub(super) max_age: Duration,
    pub(super) sender: Sender,
    pub(super) opener: DeliveryOpener,
    pub(super) health: Health,
    /// The last turn of each Page.
    turns: Mutex<HashMap<PageId, CancellationToken>>,
    pub(super) sends: Semaphore,
    /// The places of messages. A message that this worker holds has taken one.
    pub(super) places: Arc<Semaphore>,
    /// The size of all records, in bytes, when they were last read.
    pub(super) stored_bytes: AtomicUsize,
    /// Wakes the retries after a record was written.
    pub(super) stored: Notify,
    pub(super) log_limit: LogLimit,
}

/// The turn of a delivery: it begins when those before it are over, and ends when it is dropped.
pub(super) struct Turn {
    pub(super) before: Vec<CancellationToken>,
    _over: DropGuard,
}

impl Forwarder {
    pub(super) fn new(
        context: Context,
        config: &ForwardConfig,
        gate: Arc<ProcessingGate>,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            gate,
            max_age: config.max_age,
            sender: Sender::new(config)?,
            opener: DeliveryOpener::new(context.keyring.clone()),
            context,
            health: Health::default(),
            turns: Mutex::default(),
            sends: Semaphore::new(MAX_SENDS),
            places: Arc::new(Semaphore::new(usize::from(FORWARD_CONCURRENCY))),
            stored_bytes: AtomicUsize::new(0),
            stored: Notify::new(),
            log_limit: LogLimit::default(),
        })
    }

    /// Takes or renews the lease. Returns whether this process has it.
    pub(super) async fn renew(&self) -> Result<bool, StoreError> {
        let (store, process) = (&*self.context.store, &*self.context.process);
        let progress = self.health.take_progress();
        let now = match store.now().await {
            Ok(now) => now,
            Err(error) => {
                self.health.give_back(&progress);
                return Err(error);
            }
        };
        let renewed = forwarding::renew(store, process, &progress, now).await;
        if !matches!(renewed, Ok(true)) {
            self.health.give_back(&progress);
        }
        renewed
    }

    /// Gives back the messages that were delivered to this process and are not handled.
    pub(super) async fn give_back_messages(&self) {
        if let Err(error) = self.context.queue.requeue(QueueName::Forwards).await {
            tracing::warn!(error = %error, "the deliveries cannot be given back to the queue");
        }
    }

    /// Returns the turn of the next delivery of these Pages. Must be called in the order of the queue.
    pub(super) fn take_turn(&self, pages: &[PageId]) -> Turn {
        let over = CancellationToken::new();
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() > MAX_TURNS {
            turns.retain(|_, over| !over.is_cancelled());
        }
        let before = pages
            .iter()
            .filter_map(|page| turns.insert(page.clone(), over.clone()));
        Turn {
            before: before.collect(),
            _over: over.drop_guard(),
        }
    }

    /// Returns whether this worker holds a message, or is about to receive one.
    pub(super) fn holds_messages(&self) -> bool {
        self.places.available_permits() < usize::from(FORWARD_CONCURRENCY)
    }

    pub(super) fn warn(&self, error: &StoreError) {
        if self.log_limit.allows() {
            tracing::warn!(error = %error, "deliveries cannot be forwarded now; this is logged once a minute");
        }
    }
}
