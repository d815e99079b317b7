//! The open connections of a listener.
//!
//! Invariant: a listener has a limited number of places, and a new connection always gets one. When
//! all places are taken, the connection whose last use is the oldest loses its place, unless a
//! request with a valid signature is under way on it. A client that keeps connections open without using them therefore
//! locks nobody out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How many connections a listener serves at the same time, if the process may open enough files.
const MAX_PLACES: u64 = 2048;
/// How many connections that lost their place may be closing at the same time.
const MAX_CLOSING: usize = 256;
/// How many files the process needs for other purposes, including connections that are closing.
const OTHER_FILES: u64 = 768;
/// The limit of open files that suffices for every listener and its calls.
const WANTED_FILES: u64 = 8192;

/// Raises the limit of open files of this process to `wanted`, or as far as it may be raised.
/// Returns the limit that holds then.
pub fn raise_open_file_limit(wanted: u64) -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if limit.current.is_some_and(|current| current < raised) {
        limit.current = Some(raised);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(error = %error, "the limit of open files cannot be raised");
        }
    }
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(wanted, |limit| limit.min(wanted))
}

/// Returns how many places a listener can have within the limit of open files, which is raised if
/// necessary.
pub(super) fn available_places() -> usize {
    let files = raise_open_file_limit(WANTED_FILES);
    let places = files.saturating_sub(OTHER_FILES).clamp(16, MAX_PLACES);
    usize::try_from(places).unwrap_or(usize::MAX)
}

/// The connections of a listener.
#[derive(Debug)]
pub(super) struct Connections {
    places: usize,
    /// A connection holds a permit until its socket is closed. There are more permits than places,
    /// so that a new connection need not wait for the end of the one that it displaces.
    permits: Arc<Semaphore>,
    /// The connections that have not been told to close, by [`State::key`]. Never locked across an
    /// await.
    open: Mutex<BTreeMap<u64, Arc<State>>>,
    /// Counts acceptances and answers, and thereby orders them.
    events: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// The key of the connection in [`Connections::open`]: an earlier value of `last_event`. It is
    /// changed only while the map is locked.
    key: AtomicU64,
    /// The number of the last use: the last answer or, before the first one, the acceptance.
    last_event: AtomicU64,
    /// Whether the connection keeps its place until its request is answered.
    is_held: AtomicBool,
    displaced: CancellationToken,
}

/// A connection that has a place. The place is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    state: Arc<State>,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    /// Creates a set of `places` places, at least one.
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            places: places.max(1),
            permits: Arc::new(Semaphore::new(places.max(1) + MAX_CLOSING)),
            open: Mutex::default(),
            events: AtomicU64::new(0),
        })
    }

    /// Returns a place for a new connection. If all are taken, the connection whose last use is the
    /// oldest is displaced.
    pub(super) async fn admit(self: &Arc<Self>) -> Place {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed"));
        let event = self.next_event();
        let state = Arc::new(State {
            key: AtomicU64::new(event),
            last_event: AtomicU64::new(event),
            is_held: AtomicBool::new(false),
            displaced: CancellationToken::new(),
        });
        let mut open = self.lock();
        if open.len() >= self.places {
            self.displace_oldest(&mut open);
        }
        open.insert(event, state.clone());
        drop(open);
        Place {
            connections: self.clone(),
            state,
            _permit: permit,
        }
    }

    /// Tells the connection whose last use is the oldest to close, or the first one if all of them
    /// keep their places.
    fn displace_oldest(&self, open: &mut BTreeMap<u64, Arc<State>>) {
        let mut held = 0;
        while let Some((key, state)) = open.pop_first() {
            let mut last_event = state.last_event.load(Ordering::Relaxed);
            if last_event == key {
                if !state.is_held.load(Ordering::Relaxed) || held > open.len() {
                    state.displaced.cancel();
                    return;
                }
                held += 1;
                last_event = self.next_event();
                state.last_event.store(last_event, Ordering::Relaxed);
            }
            // The connection was used since it got its key, or keeps its place.
            state.key.store(last_event, Ordering::Relaxed);
            open.insert(last_event, state);
        }
    }

    fn next_event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<State>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Keeps the place until the request that is under way is answered. If every place is kept, a
    /// new connection takes the place whose last use is the oldest.
    pub(super) fn hold(&self) {
        self.state.is_held.store(true, Ordering::Relaxed);
    }

    /// Records that a request of the connection was answered.
    pub(super) fn record_answer(&self) {
        self.state.is_held.store(false, Ordering::Relaxed);
        let event = self.connections.next_event();
        self.state.last_event.store(event, Ordering::Relaxed);
    }

    /// Waits until another connection takes the place.
    pub(super) async fn displaced(&self) {
        self.state.displaced.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        let key = self.state.key.load(Ordering::Relaxed);
        open.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_connection_takes_the_place_of_the_one_whose_last_use_is_the_oldest() {
        let connections = Connections::new(3);
        let first = connections.admit().await;
        let second = connections.admit().await;
        let _third = connections.admit().await;
        first.record_answer();
        let _fourth = connections.admit().await;
        second.displaced().await;
        assert!(!first.state.displaced.is_cancelled());
        assert_eq!(connections.lock().len(), 3);
        drop((first, second));
        assert_eq!(connections.lock().len(), 2);
        let _fifth = connections.admit().await;
        assert_eq!(connections.permits.available_permits(), MAX_CLOSING);
    }

    #[tokio::test]
    async fn a_held_place_is_taken_only_if_every_place_is_held() {
        let connections = Connections::new(2);
        let (first, second) = (connections.admit().await, connections.admit().await);
        first.hold();
        let third = connections.admit().await;
        second.displaced().await;
        third.hold();
        let _fourth = connections.admit().await;
        let is_displaced = |place: &Place| place.state.displaced.is_cancelled();
        assert!(
            is_displaced(&first) != is_displaced(&third),
            "one of the two is displaced"
        );
        drop((first, second));
        // After its answer a connection is displaced as any other one.
        third.record_answer();
        let (_fifth, _sixth) = (connections.admit().await, connections.admit().await);
        third.displaced().await;
    }
}
