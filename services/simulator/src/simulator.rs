//! The handle of a running simulator.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;
use tokio::sync::mpsc;

use crate::conversation::{self, Author, CustomerMessage};
use crate::delivery::{DeliveryFaults, ReportedChange};
use crate::delivery_counts::DeliveryCounts;
use crate::facebook::{App, Facebook, WebhookTarget};
use crate::pages::{Page, Pages, id_of};
use crate::sender::{Sender, SharedFaults};
use crate::simulator_error::SimulatorError;
use crate::tls;

/// The settings with which a simulator starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// The one app of the simulated Facebook.
    pub app: App,
    /// The address of a callback that is subscribed to every field of every Page from the start, on
    /// both layers; `None` to start without subscriptions.
    pub callback: Option<String>,
    /// The seed of every random choice.
    pub seed: u64,
    /// The delivery faults.
    pub delivery_faults: DeliveryFaults,
}

/// A handle of a running simulator. Clones share one simulated Facebook.
#[derive(Debug, Clone)]
pub struct Simulator {
    // Critical sections are short and never extend across an await. Code that locks both locks
    // `facebook` first.
    facebook: Arc<Mutex<Facebook>>,
    pages: Arc<Mutex<Pages>>,
    faults: Arc<SharedFaults>,
    counts: Arc<DeliveryCounts>,
    events: mpsc::UnboundedSender<ReportedChange>,
    http: reqwest::Client,
}

impl Simulator {
    /// Starts a simulator.
    ///
    /// Its sender is a task that runs until the last handle is dropped and every event is sent.
    pub fn start(options: &Options) -> Self {
        tls::install_provider();
        let mut facebook = Facebook::new(options.app.clone(), options.seed);
        if let Some(callback) = &options.callback {
            facebook.subscribe_everything(callback);
        }
        let facebook = Arc::new(Mutex::new(facebook));
        let faults = Arc::new(SharedFaults::new(options.delivery_faults, options.seed));
        let counts = Arc::new(DeliveryCounts::default());
        let (events, incoming) = mpsc::unbounded_channel();
        let secret = &options.app.secret;
        let sender = Sender::new(secret, faults.clone(), counts.clone(), facebook.clone());
        tokio::spawn(sender.run(incoming));
        Self {
            facebook,
            pages: Arc::default(),
            faults,
            counts,
            events,
            http: reqwest::Client::new(),
        }
    }

    /// Adds a Page, or replaces the Page with the same id. No webhook is sent.
    ///
    /// Fails if the Page has no id or an unknown field.
    pub fn put_page(&self, page: &Page) -> Result<(), SimulatorError> {
        self.lock_pages().put(page)
    }

    /// Returns every Page in its current state.
    pub fn pages(&self) -> Vec<Page> {
        self.lock_pages().all()
    }

    /// Changes fields of a Page, as its owner can. Returns the Page.
    ///
    /// Each changed field causes a webhook if it has a webhook field that both layers of
    /// subscriptions include. Fails if the Page does not exist, if a field is unknown, or if
    /// `fields` names `id`.
    pub fn change(&self, id: &str, fields: Page) -> Result<Page, SimulatorError> {
        let facebook = self.facebook();
        let now = facebook.now();
        let change = self.lock_pages().change(id, fields, now)?;
        for changed in change.changed {
            let Some(event) = ReportedChange::for_change(id, &changed.name, changed.value, now)
            else {
                continue;
            };
            if let Some(target) = facebook.webhook_target(id, event.field()) {
                self.send(event, target);
            }
        }
        Ok(change.page)
    }

    /// Sends a test webhook, as the Test button of Facebook's dashboard does: an invented change of
    /// the Page with id 0.
    ///
    /// Fails if there is no app subscription.
    pub fn press_test_button(&self) -> Result<(), SimulatorError> {
        let facebook = self.facebook();
        let subscription = facebook.app_subscription.as_ref();
        let target = subscription.ok_or(SimulatorError::NotSubscribed)?.target();
        let event = ReportedChange::for_change("0", "name", json!("Test Page"), facebook.now());
        let unknown = || SimulatorError::UnknownPageField("name".to_owned());
        self.send(event.ok_or_else(unknown)?, target);
        Ok(())
    }

    /// Writes a message of a person to a Page. It causes a webhook if both layers of subscriptions include
    /// the field `messages`. Returns the id of the message. Fails if the Page does not exist.
    pub fn write_message(
        &self,
        page: &str,
        message: &CustomerMessage,
    ) -> Result<String, SimulatorError> {
        if !self.pages().iter().any(|known| id_of(known) == Some(page)) {
            return Err(SimulatorError::UnknownPage(page.to_owned()));
        }
        let CustomerMessage { from, text } = message;
        let mut facebook = self.facebook();
        let now = facebook.now();
        let conversations = &mut facebook.conversations;
        let mid = conversations.add(page, Author::Customer, from, text, now);
        if let Some(target) = facebook.webhook_target(page, "messages") {
            let messaging = conversation::messaging(page, from, &mid, text, now);
            self.send(ReportedChange::for_message(page, messaging, now), target);
        }
        Ok(mid)
    }

    fn send(&self, event: ReportedChange, target: WebhookTarget) {
        self.counts.add_event();
        // This fails only while the simulator is being dropped.
        let _ = self.events.send(event.with_target(target));
    }

    /// Returns the counters of events and deliveries.
    pub fn delivery_counts(&self) -> &DeliveryCounts {
        &self.counts
    }

    /// Returns the delivery faults.
    pub fn delivery_faults(&self) -> DeliveryFaults {
        self.faults.faults()
    }

    /// Replaces the delivery faults.
    pub fn set_delivery_faults(&self, faults: DeliveryFaults) {
        self.faults.set(faults);
    }

    /// Restarts every random choice from a seed.
    pub fn reseed(&self, seed: u64) {
        self.faults.reseed(seed);
        self.facebook().reseed(seed);
    }

    /// Locks the state of the simulated Facebook other than its Pages.
    pub fn facebook(&self) -> MutexGuard<'_, Facebook> {
        self.facebook.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the Pages.
    pub(crate) fn lock_pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the HTTP client for requests to the callbacks of the app.
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }
}
