//! The sender: puts what happens into deliveries, loses, delays, repeats and holds them back, and takes
//! the app off a Page whose deliveries fail for too long.
//!
//! Every choice comes from one seeded generator, used by one task, so a seed repeats a run as far as
//! the network lets it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::Options;
use crate::bytes::{signature_256, signature_sha1};
use crate::delivery::{Event, Faults, Tally, body, entry};
use crate::facebook::Facebook;

/// Pauses before each repetition of a delivery that was not answered 200. Facebook repeats "at
/// once, then with decreasing frequency over 36 hours"; this is the same shape in five minutes.
const RETRIES: [u64; 9] = [0, 1, 2, 5, 10, 30, 60, 90, 120];
/// Deliveries under way at the same time.
const AT_ONCE: usize = 32;
/// A delivery without an answer after this is a failed one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Facebook puts at most this many updates into one delivery.
const MAX_BATCH: usize = 1000;

/// What decides how the sender behaves, shared with who changes it.
#[derive(Debug)]
pub(crate) struct Mood {
    // Tiny critical sections, never across an await.
    state: Mutex<(Faults, fastrand::Rng)>,
    changed: Notify,
}

impl Mood {
    pub(crate) fn new(faults: Faults, seed: u64) -> Self {
        Self {
            state: Mutex::new((faults, fastrand::Rng::with_seed(seed))),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Faults, fastrand::Rng)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, faults: Faults) {
        self.lock().0 = faults;
        self.changed.notify_one();
    }

    pub(crate) fn reseed(&self, seed: u64) {
        self.lock().1 = fastrand::Rng::with_seed(seed);
    }

    pub(crate) fn faults(&self) -> Faults {
        self.lock().0
    }

    fn chance(&self, probability: f64) -> bool {
        self.lock().1.f64() < probability
    }
}

/// A delivery on its way.
#[derive(Debug, Clone)]
struct Delivery {
    callback: String,
    body: String,
    pages: Vec<String>,
    /// How many events it settles; a duplicate settles none.
    events: usize,
}

/// Sends what happens.
pub(crate) struct Sender {
    post: Arc<Post>,
    mood: Arc<Mood>,
    /// Passed by later ones.
    overtaken: VecDeque<Delivery>,
    /// Held until the backlog is over.
    backlog: VecDeque<Delivery>,
}

struct Post {
    client: reqwest::Client,
    app_secret: String,
    room: Semaphore,
    tally: Arc<Tally>,
    facebook: Arc<Mutex<Facebook>>,
}

impl Sender {
    pub(crate) fn new(
        options: &Options,
        mood: Arc<Mood>,
        tally: Arc<Tally>,
        facebook: Arc<Mutex<Facebook>>,
    ) -> Self {
        let post = Post {
            client: reqwest::Client::new(),
            app_secret: options.app.secret.clone(),
            room: Semaphore::new(AT_ONCE),
            tally,
            facebook,
        };
        Self {
            post: Arc::new(post),
            mood,
            overtaken: VecDeque::new(),
            backlog: VecDeque::new(),
        }
    }

    pub(crate) async fn run(mut self, mut arriving: mpsc::UnboundedReceiver<Event>) {
        loop {
            let first = tokio::select! {
                event = arriving.recv() => match event {
                    Some(event) => event,
                    None => break,
                },
                () = self.mood.changed.notified() => {
                    self.release();
                    continue;
                }
            };
            let faults = self.mood.faults();
            if self.mood.chance(faults.loss) {
                self.post.tally.lose();
                if arriving.is_empty() {
                    self.send_overtaken(faults);
                }
                continue;
            }
            let mut events = vec![first];
            // The callback changes only when the app is subscribed anew: then nothing is waiting.
            while events.len() < MAX_BATCH && self.mood.chance(faults.batch) {
                let Ok(next) = arriving.try_recv() else { break };
                if self.mood.chance(faults.loss) {
                    self.post.tally.lose();
                } else {
                    events.push(next);
                }
            }
            self.deliver(&events, faults, arriving.is_empty());
        }
        self.mood.set(Faults {
            hold: false,
            ..self.mood.faults()
        });
        self.release();
    }

    fn deliver(&mut self, events: &[Event], faults: Faults, is_last: bool) {
        let entries: Vec<Value> = events
            .chunk_by(|a, b| a.page == b.page && a.time == b.time)
            .map(|together| entry(together, faults))
            .collect();
        let delivery = Delivery {
            callback: events[0].target.0.clone(),
            body: body(&entries),
            pages: events.iter().map(|event| event.page.clone()).collect(),
            events: events.len(),
        };
        if self.mood.chance(faults.duplicate) {
            let duplicate = Delivery {
                events: 0,
                ..delivery.clone()
            };
            self.send(duplicate, faults);
        }
        if self.mood.chance(faults.reorder) && !is_last {
            self.overtaken.push_back(delivery);
            return;
        }
        self.send(delivery, faults);
        self.send_overtaken(faults);
    }

    fn send_overtaken(&mut self, faults: Faults) {
        while let Some(late) = self.overtaken.pop_front() {
            self.send(late, faults);
        }
    }

    fn send(&mut self, delivery: Delivery, faults: Faults) {
        if faults.hold {
            let held = &self.post.tally.held;
            held.fetch_add(delivery.events as u64, Ordering::SeqCst);
            self.backlog.push_back(delivery);
        } else {
            self.post.clone().send(delivery, faults);
        }
    }

    /// Sends the backlog, the latest first, if it is over.
    fn release(&mut self) {
        let faults = self.mood.faults();
        if faults.hold {
            return;
        }
        while let Some(held) = self.backlog.pop_back() {
            self.post.clone().send(held, faults);
        }
        self.post.tally.held.store(0, Ordering::SeqCst);
    }
}

impl Post {
    fn send(self: Arc<Self>, delivery: Delivery, faults: Faults) {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(faults.delay_seconds)).await;
            let Ok(_place) = self.room.acquire().await else {
                return;
            };
            for pause in RETRIES {
                let pause = Duration::from_secs(pause);
                tokio::time::sleep(pause.div_f64(faults.hurry.max(0.001))).await;
                let accepted = self.post(&delivery).await;
                self.judge(&delivery.pages, accepted, faults.unsubscribe_after_seconds);
                if accepted {
                    break;
                }
            }
            self.tally.settle(delivery.events);
        });
    }

    /// Remembers since when deliveries of a Page fail, and takes the app off it after too long.
    fn judge(&self, pages: &[String], accepted: bool, patience: Option<u64>) {
        let mut facebook = self.facebook.lock().unwrap_or_else(PoisonError::into_inner);
        let now = facebook.now();
        for page in pages {
            if accepted {
                facebook.failing.remove(page);
                continue;
            }
            let since = *facebook.failing.entry(page.clone()).or_insert(now);
            if patience.is_some_and(|patience| now >= since + patience) {
                facebook.installed.remove(page);
                facebook.failing.remove(page);
                tracing::info!(page, "deliveries failed for too long: the app is taken off");
            }
        }
    }

    /// One attempt; only 200 counts.
    async fn post(&self, delivery: &Delivery) -> bool {
        self.tally.sent.fetch_add(1, Ordering::SeqCst);
        let bytes = delivery.body.as_bytes();
        let request = self
            .client
            .post(&delivery.callback)
            .timeout(PATIENCE)
            .header("accept", "*/*")
            .header("content-type", "application/json")
            .header("facebook-api-version", "v25.0")
            .header("user-agent", "facebookexternalua")
            .header("x-hub-signature", signature_sha1(&self.app_secret, bytes))
            .header(
                "x-hub-signature-256",
                signature_256(&self.app_secret, bytes),
            )
            .body(delivery.body.clone());
        let accepted = match request.send().await {
            Ok(answer) => answer.status() == reqwest::StatusCode::OK,
            Err(error) => {
                tracing::debug!(error = %error.without_url(), "a delivery failed");
                false
            }
        };
        self.tally
            .accepted
            .fetch_add(u64::from(accepted), Ordering::SeqCst);
        accepted
    }
}
