//! Starts and stops the tasks of a process.
//!
//! Invariant: a task that returns, fails or panics while the process should run ends the process
//! with a failure. After a signal, [`Lifecycle::stopping`] resolves and the tasks have
//! [`DRAIN_TIMEOUT`] to finish their work.

use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the tasks of a process may take to end after the process has begun to stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(28);

/// Returns a random name that no other process has.
pub fn process_name() -> Arc<str> {
    format!("{:016x}", fastrand::u64(..)).into()
}

/// The reason why a process ended with a failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LifecycleError {
    /// A task ended, failed or panicked while the process should run. The text names the task.
    #[error("{0}")]
    Task(String),
    /// This number of tasks did not end within [`DRAIN_TIMEOUT`].
    #[error("{0} tasks did not end within {DRAIN_TIMEOUT:?}")]
    Timeout(usize),
    /// A second SIGINT ended the process before its tasks had ended.
    #[error("second signal: ended without draining")]
    SecondSignal,
    /// The handlers of signals could not be installed.
    #[error("cannot receive signals: {0}")]
    Signals(String),
}

/// A handle to the tasks of a process, or of one role in it. Clones share the same tasks.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    stop: CancellationToken,
    tasks: TaskTracker,
    /// The first failure of a task. The lock is never held across an await.
    failure: Arc<Mutex<Option<String>>>,
}

impl Lifecycle {
    /// Starts a task that should run until [`Self::stopping`] resolves. If it ends earlier, or with
    /// an error, all tasks are stopped.
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
                Ok(Ok(())) => format!("{name} ended too early"),
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

    /// Resolves when the process should stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Returns whether the process should stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Signals every task to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until the process should stop, then for the end of all tasks, at most
    /// [`DRAIN_TIMEOUT`]. Fails if a task failed or did not end in time.
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

    /// Waits for SIGTERM, SIGINT or the end of a task, then for the end of all tasks. A second
    /// SIGINT ends the wait.
    pub async fn run_until_signal(&self) -> Result<(), LifecycleError> {
        use tokio::signal::unix::{SignalKind, signal};
        let signal_error = |error: std::io::Error| LifecycleError::Signals(error.to_string());
        let mut term = signal(SignalKind::terminate()).map_err(signal_error)?;
        let mut int = signal(SignalKind::interrupt()).map_err(signal_error)?;
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
    async fn a_task_that_ends_without_a_requested_stop_fails_the_process() {
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
            Err(LifecycleError::Task("quitter ended too early".to_owned()))
        );
    }

    #[tokio::test]
    async fn a_requested_stop_is_not_a_failure() {
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
