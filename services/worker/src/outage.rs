//! Pauses processing during a store outage.
//!
//! Invariant: at the start of an outage the unacknowledged deliveries of all queues are requeued,
//! and none is received until a write to the store has succeeded.

use common::lifecycle::Lifecycle;
use common::records::trial;
use common::retry::Backoff;
use common::store::{StoreError, UnsafeSettings};
use model::queue_name::QueueName;
use tokio::sync::{Mutex, watch};

use crate::context::Context;

/// A gate that pauses processing during a store outage.
#[derive(Debug)]
pub struct ProcessingGate {
    /// The number of outages so far. The lock is held during an outage.
    outages: Mutex<u64>,
    /// Whether processing is paused. A change to `true` wakes the consumers that are waiting for a
    /// delivery, and a change to `false` starts the retry of dead letters.
    is_paused: watch::Sender<bool>,
}

impl Default for ProcessingGate {
    fn default() -> Self {
        Self {
            outages: Mutex::new(0),
            is_paused: watch::Sender::new(false),
        }
    }
}

impl ProcessingGate {
    /// Waits until no outage is in progress. Returns the number of outages so far.
    pub async fn wait_until_open(&self) -> u64 {
        *self.outages.lock().await
    }

    /// Resolves when processing is paused.
    pub async fn wait_until_paused(&self) {
        // This fails only if the sender is dropped, and `self` owns the sender.
        let _ = self
            .is_paused
            .subscribe()
            .wait_for(|is_paused| *is_paused)
            .await;
    }

    /// Returns a receiver of whether processing is paused. It reports every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.is_paused.subscribe()
    }

    /// Waits until the store accepts writes again. `known_outages` is the number of outages when
    /// the caller last received a delivery; the first caller with that number pauses processing.
    /// The callers then check the store one after the other, and each of them returns when its
    /// check succeeds or the process is stopping.
    pub async fn pause_until_recovered(
        &self,
        context: &Context,
        lifecycle: &Lifecycle,
        known_outages: u64,
    ) {
        let mut outages = self.outages.lock().await;
        if *outages == known_outages {
            *outages += 1;
            self.pause(context).await;
        }
        let mut backoff = Backoff::default();
        loop {
            tokio::select! {
                () = lifecycle.stopping() => return,
                () = backoff.wait() => {}
            }
            match check_recovery(context).await {
                Ok(()) => {
                    remove_trials(context).await;
                    break;
                }
                Err(error) => {
                    tracing::warn!(error = %error, "the store is still not available; processing stays paused");
                    self.pause(context).await;
                }
            }
        }
        tracing::info!("the store accepts writes again; processing continues");
        self.is_paused.send_replace(false);
        context.metrics.processing_paused.set(0);
    }

    /// Pauses the consumers and requeues the deliveries of all queues. Does nothing if processing
    /// is already paused.
    async fn pause(&self, context: &Context) {
        if self.is_paused.send_replace(true) {
            return;
        }
        context.metrics.processing_paused.set(1);
        for queue_name in QueueName::ALL {
            if let Err(error) = context.queue.requeue(queue_name).await {
                tracing::warn!(queue_name = %queue_name, error = %error, "cannot requeue the deliveries of a queue; the queue delivers them again later");
            }
        }
    }
}

/// Removes the trials that the outage has left: the store did not confirm them, or not their end.
/// Another process would take them for those of a process that has ended.
pub(crate) async fn remove_trials(context: &Context) {
    let _turn = context.trial_turn.lock().await;
    let removed = trial::remove_of_process(&*context.store, &context.process).await;
    if let Err(error) = removed {
        tracing::warn!(error = %error, "cannot remove the trials of this process");
    }
}

/// The reason why processing stays paused.
#[derive(Debug, thiserror::Error)]
enum RecoveryError {
    /// The store did not answer, or its answer cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The settings of the store are unsafe.
    #[error(transparent)]
    Settings(#[from] UnsafeSettings),
}

/// Checks that the store accepts one small write and that its settings are safe. It does nothing
/// else, so that no stored data can prolong an outage.
async fn check_recovery(context: &Context) -> Result<(), RecoveryError> {
    Ok(context.store.check().await?.into_result()?)
}
