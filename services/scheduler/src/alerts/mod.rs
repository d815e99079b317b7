//! Tells the operator of problems: when they open, every day, and when they are resolved.
//!
//! Invariants: one process tells at a time, the one that holds the lease of [`common::records::alert`].
//! Every problem is derived from the store and the queue, so a process that starts finds the same problems.
//! The task opens no token, calls no Facebook, and changes nothing but alerts.

mod channels;
mod context;
mod find;
mod message;
mod pages;
mod round;

use std::convert::Infallible;
use std::time::Duration;

use common::lifecycle::Lifecycle;
use common::records::alert;
use common::store::Store;
use tokio::time::Instant;

pub use channels::{Channels, SendError};
pub use context::AlertContext;
pub use message::Message;
use round::Rounds;

/// The shortest time between two searches for problems.
const MIN_PAUSE: Duration = Duration::from_secs(2);
/// The longest time between two searches for problems.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How many times as long as a search the pause after it is, so that searches take little of the store's
/// time however many Pages there are.
const PAUSE_FACTOR: u32 = 20;
/// How long the end of the lease is waited for when the process stops.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Renews the lease until another process has it. While the store does not answer, no other process can
/// take it.
async fn lose_lease(store: &dyn Store, process: &str) {
    loop {
        tokio::time::sleep(alert::LEASE / 4).await;
        let renewed = async {
            let now = store.now().await?;
            alert::acquire(store, process, now).await
        };
        if matches!(renewed.await, Ok(false)) {
            return;
        }
    }
}

/// Tells the operator of problems until the process is stopping.
pub async fn run(
    context: AlertContext,
    channels: Channels,
    lifecycle: Lifecycle,
) -> Result<(), Infallible> {
    let (store, process) = (context.store.clone(), context.process.clone());
    let mut rounds = Rounds::new(context, channels);
    loop {
        let began = Instant::now();
        let searched = tokio::select! {
            () = lifecycle.stopping() => break,
            searched = rounds.search() => searched,
        };
        let pause = (began.elapsed() * PAUSE_FACTOR).clamp(MIN_PAUSE, MAX_PAUSE);
        tokio::select! {
            () = lifecycle.stopping() => break,
            // Another process tells, if this one was too slow to renew the lease.
            () = lose_lease(&*store, &process) => {}
            () = rounds.tell(searched) => {}
        }
        tokio::select! {
            () = lifecycle.stopping() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    // The lease ends by itself if the store does not answer.
    let _ = tokio::time::timeout(RELEASE_TIMEOUT, alert::release(&*store, &process)).await;
    Ok(())
}
