//! What happens while the store is away: everything in hand goes back to the queue once, and
//! nothing is received until a write to the store has succeeded.

use common::lifecycle::Lifecycle;
use common::retry::Backoff;
use common::store::{StoreError, UnsafeSettings};
use model::queue_name::QueueName;
use tokio::sync::{Mutex, watch};

use crate::context::Context;
use crate::poison_messages;

/// Closed during an outage.
#[derive(Debug)]
pub struct ProcessingGate {
    /// How many outages there were. Held during one.
    outages: Mutex<u64>,
    /// Whether there is one now: for hands that wait for a message.
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
    /// Waits until there is no outage; says how many there were.
    pub async fn wait_until_open(&self) -> u64 {
        *self.outages.lock().await
    }

    /// Resolves when an outage begins.
    pub async fn wait_until_paused(&self) {
        // Fails only if the gate is gone, which we hold.
        let _ = self.is_paused.subscribe().wait_for(|closed| *closed).await;
    }

    /// Sits out an outage met after `seen` others. The first to meet it gives the queues back and
    /// probes the store; the rest wait here.
    pub async fn pause_until_recovered(&self, context: &Context, lifecycle: &Lifecycle, seen: u64) {
        let mut outages = self.outages.lock().await;
        if *outages == seen {
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
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(error = %error, "the store is still not available; processing stays paused");
                    self.pause(context).await;
                }
            }
        }
        tracing::info!("the store takes writes again");
        self.is_paused.send_replace(false);
    }

    /// Stops the hands that wait for a message and gives the queues back, once an outage.
    async fn pause(&self, context: &Context) {
        if self.is_paused.send_replace(true) {
            return;
        }
        for queue_name in QueueName::ALL {
            if let Err(error) = context.queue.requeue(queue_name).await {
                tracing::warn!(queue_name = %queue_name, error = %error, "cannot give the queue back; the queue will");
            }
        }
    }
}

/// Why processing stays paused.
#[derive(Debug, thiserror::Error)]
enum RecoveryError {
    /// The store does not answer, or its answer cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store must not be used as it is set up.
    #[error(transparent)]
    Settings(#[from] UnsafeSettings),
}

/// Checks that the store takes a write and may be used, and retries the dead letters whose retry the
/// outage interrupted.
async fn check_recovery(context: &Context) -> Result<(), RecoveryError> {
    context.store.check().await?.into_result()?;
    Ok(poison_messages::retry_pending(context).await?)
}
