//! The life of a process: its tasks, its end, its exit code.
//!
//! Invariant: a task of the process that ends by itself, by error or panic, ends the whole process
//! with a failure. A signal ends it in order: tasks see [`Lifecycle::stopping`] and have
//! [`DRAIN`] to finish what they hold.

use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a process may take from the signal to its end.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(28);

/// Why a process ended with a failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LifecycleError {
    /// A task ended, failed or panicked while the process should run; the text names it.
    #[error("{0}")]
    Task(String),
    /// So many tasks did not end within [`DRAIN_TIMEOUT`].
    #[error("{0} tasks did not end within {DRAIN_TIMEOUT:?}")]
    Timeout(usize),
    /// A second SIGINT ended the process while it drained.
    #[error("second signal: ended without draining")]
    SecondSignal,
    /// The process cannot receive signals.
    #[error("cannot receive signals: {0}")]
    Signals(String),
}

/// Shared by all tasks of a process, or of one role in it.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    stop: CancellationToken,
    tasks: TaskTracker,
    // Tiny critical sections, never across an await.
    failure: Arc<Mutex<Option<String>>>,
}

impl Lifecycle {
    /// Starts a task that should run until [`Self::stopping`].
    pub fn spawn<E: Display + Send + 'static>(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let lifecycle = self.clone();
        self.tasks.spawn(async move {
            let outcome = tokio::spawn(task).await;
            let failure = match outcome {
                Ok(Ok(())) if lifecycle.stop.is_cancelled() => return,
                Ok(Ok(())) => format!("{name} ended by itself"),
                Ok(Err(error)) => format!("{name} failed: {error}"),
                Err(panic) => format!("{name} panicked: {panic}"),
            };
            tracing::error!(task.name = name, "{failure}");
            let mut first = lifecycle
                .failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(failure);
            drop(first);
            lifecycle.stop.cancel();
        });
    }

    /// Resolves when the process should end.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the process should end.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Asks every task to end.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end of all tasks, at most [`DRAIN`], and says whether all went well.
    pub async fn finish(&self) -> Result<(), LifecycleError> {
        self.stopping().await;
        self.tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.wait())
            .await
            .is_err()
        {
            return Err(LifecycleError::Timeout(self.tasks.len()));
        }
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failure.map_or(Ok(()), |failure| Err(LifecycleError::Task(failure)))
    }

    /// Runs until a signal (SIGTERM, SIGINT) or the end of a task, then drains.
    pub async fn run_until_signal(&self) -> Result<(), LifecycleError> {
        use tokio::signal::unix::{SignalKind, signal};
        let refused = |error: std::io::Error| LifecycleError::Signals(error.to_string());
        let mut term = signal(SignalKind::terminate()).map_err(refused)?;
        let mut int = signal(SignalKind::interrupt()).map_err(refused)?;
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: draining"),
            _ = int.recv() => tracing::info!("SIGINT: draining"),
            () = self.stopping() => {}
        }
        self.stop();
        tokio::select! {
            finished = self.finish() => finished,
            _ = int.recv() => Err(LifecycleError::SecondSignal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_by_itself_fails_the_process() {
        let lifecycle = Lifecycle::default();
        lifecycle.spawn("idle", {
            let lifecycle = lifecycle.clone();
            async move {
                lifecycle.stopping().await;
                Ok::<_, String>(())
            }
        });
        lifecycle.spawn("quitter", async { Ok::<_, String>(()) });
        assert_eq!(
            lifecycle.finish().await,
            Err(LifecycleError::Task("quitter ended by itself".to_owned()))
        );
    }

    #[tokio::test]
    async fn a_stop_that_was_asked_for_is_no_failure() {
        let lifecycle = Lifecycle::default();
        lifecycle.spawn("idle", {
            let lifecycle = lifecycle.clone();
            async move {
                lifecycle.stopping().await;
                Ok::<_, String>(())
            }
        });
        lifecycle.stop();
        assert_eq!(lifecycle.finish().await, Ok(()));
    }
}
