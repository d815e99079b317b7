//! Counts the parts of webhooks that were received and dropped. A task stores and logs the counts, so
//! that `pagesync doctor` can name them.
//!
//! Invariant: the handler of webhooks only counts in memory and never waits for the store.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::records::dropped;

use crate::oauth::context::LoginContext;

/// The time between two writes of the counts.
const INTERVAL: Duration = Duration::from_secs(10);

/// The counts since the last write, by the name of the part.
#[derive(Debug, Default)]
pub struct DroppedParts(Mutex<BTreeMap<&'static str, u64>>);

impl DroppedParts {
    /// Counts dropped parts.
    pub(crate) fn add(&self, name: &'static str, n: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(name).or_default() += n;
    }

    /// Returns the counts and starts again.
    fn take(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds counts that could not be stored again.
    fn put_back(&self, counts: BTreeMap<&'static str, u64>) {
        for (name, n) in counts {
            self.add(name, n);
        }
    }
}

/// Stores and logs the counts until the process is stopping, and then once more.
pub(crate) async fn store_counts(
    parts: &DroppedParts,
    context: &LoginContext,
) -> Result<(), Infallible> {
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        let is_stopping = tokio::select! {
            _ = interval.tick() => false,
            () = context.lifecycle().stopping() => true,
        };
        let counts = parts.take();
        if !counts.is_empty() {
            let day = context.local_day();
            match dropped::add(&*context.store, &day, &counts).await {
                Ok(()) => {
                    tracing::info!(dropped = ?counts, "parts of webhooks that pagesync does not handle were received and dropped");
                }
                Err(_) => parts.put_back(counts),
            }
        }
        if is_stopping {
            return Ok(());
        }
    }
}
