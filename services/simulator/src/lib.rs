//! A Facebook that runs on a laptop. So far: Pages that can be changed, and the webhooks those
//! changes cause, in Facebook's exact bytes and with its habits: batches, duplicates, disorder,
//! values left out, retries.
//!
//! Invariant: shares no type with pagesync. It is the second opinion: a wrong field name here and
//! there must not cancel out.

pub mod bytes;
pub mod control;
pub mod delivery;
pub mod world;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use delivery::{Event, Faults, Sender, Tally};
use world::World;

/// What a simulator is told at its start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where deliveries are posted.
    pub callback: String,
    /// Signs them.
    pub app_secret: String,
    /// Decides every choice that is left to chance.
    pub seed: u64,
    /// Facebook's habits.
    pub faults: Faults,
}

/// A running simulator.
#[derive(Debug, Clone)]
pub struct Simulator {
    // Tiny critical sections, never across an await.
    world: Arc<Mutex<World>>,
    faults: Arc<Mutex<Faults>>,
    tally: Arc<Tally>,
    events: mpsc::UnboundedSender<Event>,
}

impl Simulator {
    /// Starts delivering; runs until the last handle is dropped and everything is delivered.
    pub fn start(options: &Options) -> Self {
        let (events, arriving) = mpsc::unbounded_channel();
        let faults = Arc::new(Mutex::new(options.faults));
        let tally = Arc::new(Tally::default());
        let sender = Sender::new(options, faults.clone(), tally.clone());
        tokio::spawn(sender.run(arriving));
        Self {
            world: Arc::default(),
            faults,
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

    /// Changes fields of a Page as its owner would; each changed field that has a webhook causes one.
    pub fn change(&self, id: &str, fields: world::Page) -> Result<world::Page, String> {
        let (page, changed) = self.world().change(id, fields)?;
        for (field, value) in changed {
            if let Some(event) = Event::of(id, &field, value, now()) {
                self.tally.expect();
                // Fails only while the simulator is being dropped.
                let _ = self.events.send(event);
            }
        }
        Ok(page)
    }

    /// How deliveries went so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Changes the habits from now on.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the control surface for ever.
pub async fn serve(simulator: Simulator, listener: TcpListener) -> std::io::Result<()> {
    axum::serve(listener, control::router(simulator)).await
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
