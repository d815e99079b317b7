//! Keeps the results of the checks of `doctor`.
//!
//! Invariant: however many requests arrive, the checks are made at most once in [`CACHE_TIME`], because
//! some of them call Facebook.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::views::check::Check;
use tokio::sync::Mutex;

/// How long the results are answered again.
const CACHE_TIME: Duration = Duration::from_secs(30);

/// A function that makes every check of `doctor`.
pub type RunChecks =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Check>> + Send>> + Send + Sync>;

/// Results, and when they were made.
type Results = Option<(Instant, Vec<Check>)>;

/// The results of the last checks.
#[derive(Clone)]
pub(crate) struct CheckCache {
    run: RunChecks,
    last: Arc<Mutex<Results>>,
}

impl CheckCache {
    pub(crate) fn new(run: RunChecks) -> Self {
        let last = Arc::default();
        Self { run, last }
    }

    /// Returns the last results, or new ones if they are too old. Requests that arrive during the checks
    /// wait for their results. The checks are completed although their request ends.
    pub(crate) async fn results(&self) -> Vec<Check> {
        let cache = self.clone();
        let results = tokio::spawn(async move { cache.fresh_results().await });
        results.await.unwrap_or_default()
    }

    async fn fresh_results(&self) -> Vec<Check> {
        let mut last = self.last.lock().await;
        if let Some((at, checks)) = &*last
            && at.elapsed() < CACHE_TIME
        {
            return checks.clone();
        }
        let checks = (self.run)().await;
        *last = Some((Instant::now(), checks.clone()));
        checks
    }
}
