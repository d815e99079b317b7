//! Sends deliveries: puts events into batches, applies the delivery faults, retries, and removes
//! the subscription of a Page whose deliveries fail for too long.
//!
//! Invariant: only the sender task uses the random generator of the delivery faults. The same seed
//! therefore gives the same random choices; only the timing of the network can differ.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::bytes::{signature_256, signature_sha1};
use crate::delivery::{
    DeliveryFaults, ReportedChange, delivery_body, entry_for_events, share_entry,
};
use crate::delivery_counts::DeliveryCounts;
use crate::facebook::Facebook;

/// The delay before each attempt in seconds; the first attempt is immediate. Facebook retries "at
/// once, then with decreasing frequency over 36 hours"; here the attempts are spread over about
/// five minutes.
const ATTEMPT_DELAYS: [u64; 9] = [0, 1, 2, 5, 10, 30, 60, 90, 120];
/// The maximum number of deliveries that are sent at the same time.
const MAX_CONCURRENT: usize = 32;
/// How long an attempt waits for its answer before it counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum number of events in a delivery, as at Facebook.
const MAX_BATCH: usize = 1000;

/// The delivery faults and their random generator, shared by the sender and every handle of the
/// simulator.
#[derive(Debug)]
pub(crate) struct SharedFaults {
    // Critical sections are short and never extend across an await.
    state: Mutex<FaultState>,
    changed: Notify,
}

#[derive(Debug)]
struct FaultState {
    faults: DeliveryFaults,
    random: fastrand::Rng,
}

impl SharedFaults {
    pub(crate) fn new(faults: DeliveryFaults, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self {
            state: Mutex::new(FaultState { faults, random }),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, FaultState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the faults and wakes the sender.
    pub(crate) fn set(&self, faults: DeliveryFaults) {
        self.lock().faults = faults;
        self.changed.notify_one();
    }

    /// Restarts the random choices from a seed.
    pub(crate) fn reseed(&self, seed: u64) {
        self.lock().random = fastrand::Rng::with_seed(seed);
    }

    /// Returns the current faults.
    pub(crate) fn faults(&self) -> DeliveryFaults {
        self.lock().faults
    }

    /// Returns true with this probability.
    fn chance(&self, probability: f64) -> bool {
        self.lock().random.f64() < probability
    }
}

/// A delivery that is ready to be sent.
#[derive(Debug, Clone)]
struct Delivery {
    callback: String,
    body: String,
    /// The Page id of each event.
    pages: Vec<String>,
    /// How many events count as finished once this delivery ends; zero for a duplicate.
    events: usize,
}

/// The task that turns events into deliveries.
pub(crate) struct Sender {
    client: Arc<DeliveryClient>,
    faults: Arc<SharedFaults>,
    /// Reordered deliveries, which are sent after the next delivery.
    reordered: VecDeque<Delivery>,
    /// Deliveries that are held back by the setting `hold`.
    held_back: VecDeque<Delivery>,
}

impl Sender {
    pub(crate) fn new(
        app_secret: &str,
        faults: Arc<SharedFaults>,
        counts: Arc<DeliveryCounts>,
        facebook: Arc<Mutex<Facebook>>,
    ) -> Self {
        let client = DeliveryClient {
            http: reqwest::Client::new(),
            app_secret: app_secret.to_owned(),
            permits: Semaphore::new(MAX_CONCURRENT),
            counts,
            facebook,
        };
        Self {
            client: Arc::new(client),
            faults,
            reordered: VecDeque::new(),
            held_back: VecDeque::new(),
        }
    }

    /// Delivers events until every handle of the simulator is dropped.
    pub(crate) async fn run(mut self, mut incoming: mpsc::UnboundedReceiver<ReportedChange>) {
        loop {
            let first = tokio::select! {
                event = incoming.recv() => match event {
                    Some(event) => event,
                    None => break,
                },
                () = self.faults.changed.notified() => {
                    self.release_held_back();
                    continue;
                }
            };
            let faults = self.faults.faults();
            if self.faults.chance(faults.loss) {
                self.client.counts.add_lost();
                if incoming.is_empty() {
                    self.send_reordered(faults);
                }
                continue;
            }
            let events = self.batch(first, &mut incoming, faults);
            self.deliver(&events, faults, incoming.is_empty());
        }
        self.faults.set(DeliveryFaults {
            hold: false,
            ..self.faults.faults()
        });
        self.release_held_back();
    }

    /// Returns `first` together with the waiting events that are put into the same delivery.
    fn batch(
        &self,
        first: ReportedChange,
        incoming: &mut mpsc::UnboundedReceiver<ReportedChange>,
        faults: DeliveryFaults,
    ) -> Vec<ReportedChange> {
        let mut events = vec![first];
        // The delivery goes to the callback of its first event. The other events have another one
        // only if the app subscribed again while they waited, which the simulator ignores.
        while events.len() < MAX_BATCH && self.faults.chance(faults.batch) {
            let Ok(next) = incoming.try_recv() else { break };
            if self.faults.chance(faults.loss) {
                self.client.counts.add_lost();
            } else {
                events.push(next);
            }
        }
        events
    }

    /// Builds a delivery of `events` and applies the faults `duplicate` and `reorder` while it is
    /// sent. The last delivery is never reordered, because no later one would release it.
    fn deliver(&mut self, events: &[ReportedChange], faults: DeliveryFaults, is_last: bool) {
        let entries: Vec<Value> = events
            .chunk_by(share_entry)
            .map(|group| entry_for_events(group, faults))
            .collect();
        let delivery = Delivery {
            callback: events[0].target.callback.clone(),
            body: delivery_body(&entries),
            pages: events.iter().map(|event| event.page.clone()).collect(),
            events: events.len(),
        };
        if self.faults.chance(faults.duplicate) {
            let duplicate = Delivery {
                events: 0,
                ..delivery.clone()
            };
            self.send(duplicate, faults);
        }
        if self.faults.chance(faults.reorder) && !is_last {
            self.reordered.push_back(delivery);
            return;
        }
        self.send(delivery, faults);
        self.send_reordered(faults);
    }

    fn send_reordered(&mut self, faults: DeliveryFaults) {
        while let Some(delivery) = self.reordered.pop_front() {
            self.send(delivery, faults);
        }
    }

    /// Sends a delivery, or stores it while deliveries are held back.
    fn send(&mut self, delivery: Delivery, faults: DeliveryFaults) {
        if faults.hold {
            self.client.counts.add_held_back(delivery.events);
            self.held_back.push_back(delivery);
        } else {
            self.client.clone().send(delivery, faults);
        }
    }

    /// Sends the deliveries that were held back, the latest first, unless `hold` is still set.
    fn release_held_back(&mut self) {
        let faults = self.faults.faults();
        if faults.hold {
            return;
        }
        while let Some(delivery) = self.held_back.pop_back() {
            self.client.clone().send(delivery, faults);
        }
        self.client.counts.clear_held_back();
    }
}

/// The HTTP client of the sender, and the state that is updated after each attempt.
struct DeliveryClient {
    http: reqwest::Client,
    app_secret: String,
    permits: Semaphore,
    counts: Arc<DeliveryCounts>,
    facebook: Arc<Mutex<Facebook>>,
}

impl DeliveryClient {
    /// Starts a task that sends a delivery until it is accepted or its attempts are used up.
    fn send(self: Arc<Self>, delivery: Delivery, faults: DeliveryFaults) {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(faults.delay_seconds)).await;
            let Ok(_permit) = self.permits.acquire().await else {
                return;
            };
            for delay in ATTEMPT_DELAYS {
                let delay = Duration::from_secs(delay);
                tokio::time::sleep(delay.div_f64(faults.retry_speed.max(0.001))).await;
                let accepted = self.post(&delivery).await;
                let limit = faults.unsubscribe_after_seconds;
                self.record_attempt(&delivery.pages, accepted, limit);
                if accepted {
                    break;
                }
            }
            self.counts.add_finished(delivery.events);
        });
    }

    /// Records when deliveries for each Page began to fail, and removes the subscription of a Page
    /// whose deliveries have failed for `limit` seconds.
    fn record_attempt(&self, pages: &[String], accepted: bool, limit: Option<u64>) {
        let mut facebook = self.facebook.lock().unwrap_or_else(PoisonError::into_inner);
        let now = facebook.now();
        for page in pages {
            if accepted {
                facebook.failing_since.remove(page);
                continue;
            }
            let since = *facebook.failing_since.entry(page.clone()).or_insert(now);
            if limit.is_some_and(|limit| now >= since + limit) {
                facebook.page_subscriptions.remove(page);
                facebook.failing_since.remove(page);
                tracing::info!(
                    page,
                    "removed a Page subscription: deliveries failed for too long"
                );
            }
        }
    }

    /// Makes one attempt and returns whether it was answered with 200. Every other result is a
    /// failure.
    async fn post(&self, delivery: &Delivery) -> bool {
        self.counts.add_sent();
        let bytes = delivery.body.as_bytes();
        let sha1 = signature_sha1(&self.app_secret, bytes);
        let sha256 = signature_256(&self.app_secret, bytes);
        let request = self
            .http
            .post(&delivery.callback)
            .timeout(ANSWER_TIMEOUT)
            .header("accept", "*/*")
            .header("content-type", "application/json")
            .header("facebook-api-version", "v25.0")
            .header("user-agent", "facebookexternalua")
            .header("x-hub-signature", sha1)
            .header("x-hub-signature-256", sha256)
            .body(delivery.body.clone());
        let accepted = match request.send().await {
            Ok(answer) => answer.status() == reqwest::StatusCode::OK,
            Err(error) => {
                tracing::debug!(error = %error.without_url(), "a delivery failed");
                false
            }
        };
        if accepted {
            self.counts.add_accepted();
        }
        accepted
    }
}
