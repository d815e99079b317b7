//! The event streams that may be open.
//!
//! Invariant: one key opens at most half of them, so that it cannot keep the others from following.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places of event streams.
#[derive(Debug)]
pub(crate) struct StreamPlaces {
    max: usize,
    /// How many streams each key has open, by the id of the key.
    open: Mutex<HashMap<String, usize>>,
}

/// The place of one stream, which it gives back when it is dropped.
#[derive(Debug)]
pub(crate) struct StreamPlace {
    places: Arc<StreamPlaces>,
    key: String,
}

impl StreamPlaces {
    /// Returns places for `max` streams.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            open: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a stream of a key. Returns `None` if all are taken, or if the key has half of them.
    pub(crate) fn take(self: &Arc<Self>, key: &str) -> Option<StreamPlace> {
        let mut open = self.lock();
        let all: usize = open.values().sum();
        let own = open.get(key).copied().unwrap_or(0);
        if all >= self.max || own >= self.max.div_ceil(2) {
            return None;
        }
        open.insert(key.to_owned(), own + 1);
        Some(StreamPlace {
            places: self.clone(),
            key: key.to_owned(),
        })
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        let left = open.get(&self.key).map_or(0, |own| own.saturating_sub(1));
        if left == 0 {
            open.remove(&self.key);
        } else {
            open.insert(self.key.clone(), left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_gets_half_of_the_places_and_gives_them_back() {
        let places = Arc::new(StreamPlaces::new(4));
        let first = places.take("a").unwrap();
        let _second = places.take("a").unwrap();
        assert!(places.take("a").is_none());
        let _third = places.take("b").unwrap();
        drop(first);
        let _again = places.take("a").unwrap();
        let _fourth = places.take("b").unwrap();
        assert!(places.take("c").is_none(), "all places are taken");
    }
}
