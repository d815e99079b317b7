//! The parts of a process that the handlers share.

use std::sync::Arc;

use common::clock::Clock;
use common::config::Config;
use common::daily_schedule::DailySchedule;
use common::http::max_long_answers;
use common::lifecycle::{Lifecycle, process_name};
use common::queue::Queue;
use common::store::Store;
use common::telemetry::Metrics;

use crate::changes::feed::Feed;
use crate::changes::stream_places::StreamPlaces;
use crate::check_cache::{CheckCache, RunChecks};
use crate::push::{Poster, Pusher};
use common::authentication::KeyCache;

/// The state of the API.
pub struct Context {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) scopes: Vec<String>,
    pub(crate) tracked_fields: Vec<String>,
    pub(crate) daily_schedule: DailySchedule,
    pub(crate) keys: KeyCache,
    pub(crate) feed: Arc<Feed>,
    pub(crate) checks: CheckCache,
    /// The places of event streams.
    pub(crate) streams: Arc<StreamPlaces>,
    pub(crate) lifecycle: Lifecycle,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl Context {
    /// Returns the state of an API on this queue and store, and starts the tasks that follow the change
    /// feed and post changes. Fails if an HTTP client cannot be built.
    pub fn start(
        config: &Config,
        queue: Arc<dyn Queue>,
        store: Arc<dyn Store>,
        metrics: Metrics,
        clock: Clock,
        lifecycle: Lifecycle,
        run_checks: RunChecks,
    ) -> reqwest::Result<Self> {
        let feed = Arc::new(Feed::new(store.clone()));
        let following = feed.clone().follow(lifecycle.clone());
        lifecycle.spawn("change feed of the API", following);
        let process = process_name();
        for destination in &config.destinations {
            let pusher = Pusher {
                config: destination.clone(),
                poster: Poster::new(destination, clock.clone())?,
                store: store.clone(),
                feed: feed.clone(),
                metrics: metrics.clone(),
                process: process.clone(),
                lifecycle: lifecycle.clone(),
            };
            lifecycle.spawn("destination of changes", pusher.run());
        }
        Ok(Self {
            store,
            queue,
            clock,
            metrics,
            scopes: config.scopes.clone(),
            tracked_fields: config
                .tracked_fields
                .iter()
                .map(ToString::to_string)
                .collect(),
            daily_schedule: config.daily_schedule.clone(),
            keys: KeyCache::default(),
            feed,
            checks: CheckCache::new(run_checks),
            streams: Arc::new(StreamPlaces::new(max_long_answers())),
            lifecycle,
        })
    }
}
