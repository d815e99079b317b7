//! What happens while the store is away: everything in hand goes back to the queue once, and
//! nothing is received until a write to the store has succeeded.

use common::backoff::Backoff;
use common::lifecycle::Lifecycle;
use model::job::Lane;
use tokio::sync::Mutex;

use crate::Parts;

/// Closed during an outage. Holds how many there were.
#[derive(Debug, Default)]
pub struct Gate(Mutex<u64>);

impl Gate {
    /// Waits until there is no outage; says how many there were.
    pub async fn pass(&self) -> u64 {
        *self.0.lock().await
    }

    /// Sits out an outage met after `seen` others. The first to meet it gives the lane back and
    /// probes the store; the rest wait here.
    pub async fn wait_out(&self, parts: &Parts, lifecycle: &Lifecycle, seen: u64) {
        let mut outages = self.0.lock().await;
        if *outages > seen {
            return;
        }
        *outages += 1;
        if let Err(error) = parts.queue.release(Lane::Webhooks).await {
            tracing::warn!(error = %error, "cannot give the lane back; the queue will");
        }
        let mut backoff = Backoff::default();
        loop {
            tokio::select! {
                () = lifecycle.stopping() => return,
                () = backoff.wait() => {}
            }
            match parts.store.check().await {
                Ok(_) => {
                    tracing::info!("the store takes writes again");
                    // Trials that the outage cut short. A new outage brings us here again.
                    if let Err(error) = crate::suspects::sweep(parts).await {
                        tracing::warn!(error = %error, "cannot look through the dead letters");
                    }
                    return;
                }
                Err(error) => tracing::warn!(error = %error, "the store is still away"),
            }
        }
    }
}
