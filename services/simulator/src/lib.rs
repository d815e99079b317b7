//! A Facebook that runs on a laptop: the dialog, the Graph API with one app, people and Pages, both
//! layers of subscriptions, and the webhooks that changes cause, in Facebook's exact bytes and with
//! its habits: batches, duplicates, disorder, values left out, retries. `README.md` says how true
//! each of these is.
//!
//! Invariant: shares no type with pagesync. It is the second opinion: a wrong field name here and
//! there must not cancel out.

pub mod bytes;
pub mod control;
pub mod delivery;
mod dialog;
pub mod errors;
pub mod facebook;
mod graph;
pub mod scenario;
mod sender;
pub mod signed_request;
pub mod visitor;
pub mod world;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use delivery::{Event, Faults, Tally};
use facebook::{App, Facebook};
use sender::{Mood, Sender};
use world::World;

/// What a simulator is told at its start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The one app there is; its secret signs deliveries.
    pub app: App,
    /// Subscribes the app on both layers from the start, for every Page, as if by hand: where its
    /// webhooks go.
    pub callback: Option<String>,
    /// Decides every choice that is left to chance.
    pub seed: u64,
    /// Facebook's habits.
    pub faults: Faults,
}

/// A running simulator.
#[derive(Debug, Clone)]
pub struct Simulator {
    // Tiny critical sections, never across an await.
    // Where both are locked, `facebook` is first.
    facebook: Arc<Mutex<Facebook>>,
    world: Arc<Mutex<World>>,
    mood: Arc<Mood>,
    tally: Arc<Tally>,
    events: mpsc::UnboundedSender<Event>,
    http: reqwest::Client,
}

impl Simulator {
    /// Starts delivering; runs until the last handle is dropped and everything is delivered.
    pub fn start(options: &Options) -> Self {
        provide_tls();
        let (events, arriving) = mpsc::unbounded_channel();
        let mut facebook = Facebook::new(options.app.clone(), options.seed);
        if let Some(callback) = &options.callback {
            facebook.preinstall(callback);
        }
        let facebook = Arc::new(Mutex::new(facebook));
        let mood = Arc::new(Mood::new(options.faults, options.seed));
        let tally = Arc::new(Tally::default());
        let sender = Sender::new(options, mood.clone(), tally.clone(), facebook.clone());
        tokio::spawn(sender.run(arriving));
        Self {
            facebook,
            world: Arc::default(),
            http: reqwest::Client::new(),
            mood,
            tally,
            events,
        }
    }

    /// Adds a Page or replaces it; causes no webhook.
    pub fn put_page(&self, page: &world::Page) -> Result<(), String> {
        self.world().put(page)
    }

    /// Every Page.
    pub fn pages(&self) -> Vec<world::Page> {
        self.world().pages()
    }

    /// Changes fields of a Page as its owner would; each changed field that has a webhook, and that
    /// the app is subscribed to on both layers, causes one.
    pub fn change(&self, id: &str, fields: world::Page) -> Result<world::Page, String> {
        let facebook = self.facebook();
        let now = facebook.now();
        let (page, changed) = self.world().change(id, fields, now)?;
        for (field, value) in changed {
            let event = Event::of(id, &field, value, now);
            let target = event
                .as_ref()
                .and_then(|event| facebook.delivers(id, event.field()));
            if let (Some(event), Some(target)) = (event, target) {
                self.tally.expect();
                // Fails only while the simulator is being dropped.
                let _ = self.events.send(event.to(target));
            }
        }
        Ok(page)
    }

    /// The Test button of the dashboard: a made-up change of the id 0.
    pub fn press_test_button(&self) -> Result<(), String> {
        let facebook = self.facebook();
        let app = facebook
            .subscription
            .as_ref()
            .ok_or("the app is not subscribed")?;
        let event = Event::of("0", "name", serde_json::json!("Test Page"), facebook.now());
        let event = event.ok_or("there is no such field")?;
        self.tally.expect();
        // Fails only while the simulator is being dropped.
        let _ = self
            .events
            .send(event.to((app.callback.clone(), app.include_values)));
        Ok(())
    }

    /// How deliveries went so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The habits of the sender.
    pub fn faults(&self) -> Faults {
        self.mood.faults()
    }

    /// Changes the habits of the sender from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.mood.set(faults);
    }

    /// Every choice left to chance begins anew from this seed.
    pub fn reseed(&self, seed: u64) {
        self.mood.reseed(seed);
        self.facebook().reseed(seed);
    }

    /// What this Facebook knows beside its Pages.
    pub fn facebook(&self) -> std::sync::MutexGuard<'_, Facebook> {
        self.facebook.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub(crate) fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves dialog, Graph and the control surface for ever.
pub async fn serve(simulator: Simulator, listener: TcpListener) -> std::io::Result<()> {
    axum::serve(listener, control::router(simulator)).await
}

/// reqwest is built without a TLS provider of its own: a client can be made only after this.
pub(crate) fn provide_tls() {
    // Fails only if there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// UNIX time in seconds, as `entry.time` has it.
pub(crate) fn now() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulator has Facebook's clock, not ours"
    )]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
