//! What happens while the store is away: everything in hand goes back to the queue once, and
//! nothing is received until a write to the store has succeeded.

use common::backoff::Backoff;
use common::lifecycle::Lifecycle;
use model::lane::Lane;
use tokio::sync::{Mutex, watch};

use crate::{Parts, suspects};

/// Closed during an outage.
#[derive(Debug)]
pub struct Gate {
    /// How many outages there were. Held during one.
    outages: Mutex<u64>,
    /// Whether there is one now: for hands that wait for a message.
    closed: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            outages: Mutex::new(0),
            closed: watch::Sender::new(false),
        }
    }
}

impl Gate {
    /// Waits until there is no outage; says how many there were.
    pub async fn pass(&self) -> u64 {
        *self.outages.lock().await
    }

    /// Resolves when an outage begins.
    pub async fn closed(&self) {
        // Fails only if the gate is gone, which we hold.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Sits out an outage met after `seen` others. The first to meet it gives the lanes back and
    /// probes the store; the rest wait here.
    pub async fn wait_out(&self, parts: &Parts, lifecycle: &Lifecycle, seen: u64) {
        let mut outages = self.outages.lock().await;
        if *outages == seen {
            *outages += 1;
            self.close(parts).await;
        }
        let mut backoff = Backoff::default();
        loop {
            tokio::select! {
                () = lifecycle.stopping() => return,
                () = backoff.wait() => {}
            }
            match probe(parts).await {
                Ok(()) => break,
                Err(reason) => {
                    tracing::warn!(reason, "the store is still away");
                    self.close(parts).await;
                }
            }
        }
        tracing::info!("the store takes writes again");
        self.closed.send_replace(false);
    }

    /// Stops the hands that wait for a message and gives the lanes back, once an outage.
    async fn close(&self, parts: &Parts) {
        if self.closed.send_replace(true) {
            return;
        }
        for lane in Lane::ALL {
            if let Err(error) = parts.queue.release(lane).await {
                tracing::warn!(lane = %lane, error = %error, "cannot give the lane back; the queue will");
            }
        }
    }
}

/// Whether the store is back: it takes a write, may be used, and the trials that the outage cut
/// short are done.
async fn probe(parts: &Parts) -> Result<(), String> {
    let health = parts
        .store
        .check()
        .await
        .map_err(|error| error.to_string())?;
    health.verdict()?;
    suspects::sweep(parts)
        .await
        .map_err(|error| error.to_string())
}
