//! The counters of events and deliveries.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::sync::Notify;

/// The numbers of events and of attempts to send a delivery, by their state.
#[derive(Debug, Default)]
pub struct DeliveryCounts {
    events: AtomicU64,
    finished: AtomicU64,
    lost: AtomicU64,
    held_back: AtomicU64,
    sent: AtomicU64,
    accepted: AtomicU64,
    changed: Notify,
}

impl DeliveryCounts {
    /// Counts a new event.
    pub(crate) fn add_event(&self) {
        add(&self.events, 1);
    }

    /// Counts an event that is never sent. It counts as finished as well.
    pub(crate) fn add_lost(&self) {
        add(&self.lost, 1);
        self.add_finished(1);
    }

    /// Counts events that are finished: their delivery was accepted or has no attempts left.
    pub(crate) fn add_finished(&self, events: usize) {
        add(&self.finished, events as u64);
        self.changed.notify_waiters();
    }

    /// Counts events whose delivery is held back.
    pub(crate) fn add_held_back(&self, events: usize) {
        add(&self.held_back, events as u64);
    }

    /// Resets the number of events that are held back.
    pub(crate) fn clear_held_back(&self) {
        self.held_back.store(0, Ordering::SeqCst);
    }

    /// Counts an attempt to send a delivery.
    pub(crate) fn add_sent(&self) {
        add(&self.sent, 1);
    }

    /// Counts an attempt that was answered with 200.
    pub(crate) fn add_accepted(&self) {
        add(&self.accepted, 1);
    }

    /// Returns the number of events that are held back.
    pub fn held_back(&self) -> u64 {
        get(&self.held_back)
    }

    /// Returns the number of events that were lost, which means never sent.
    pub fn lost(&self) -> u64 {
        get(&self.lost)
    }

    /// Waits until every event is finished or lost.
    pub async fn all_finished(&self) {
        loop {
            // This is created before the counters are read, so that no later change is missed.
            let changed = self.changed.notified();
            if get(&self.finished) >= get(&self.events) {
                return;
            }
            changed.await;
        }
    }

    /// Returns a sentence with the numbers of events, attempts and accepted attempts.
    pub fn summary(&self) -> String {
        let (events, sent, accepted) = (get(&self.events), get(&self.sent), get(&self.accepted));
        format!("{events} changes reported in {sent} deliveries, {accepted} of them answered 200")
    }

    /// Returns all counters as JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "events": get(&self.events),
            "finished": get(&self.finished),
            "lost": get(&self.lost),
            "held_back": get(&self.held_back),
            "sent": get(&self.sent),
            "accepted": get(&self.accepted),
        })
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::SeqCst);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}
