//! Forwards deliveries of Facebook to another program, such as a bot.
//!
//! A worker that holds the lease of [`forwarding`] receives messages of deliveries from the queue. Each
//! delivery is sent at once, and again with growing pauses while its message is held. A delivery that was
//! not accepted in this time gets a record, from which it is sent again. While the program accepts
//! nothing, no message is received, so the deliveries wait in the queue.
//!
//! Invariants: a message is acknowledged after each of its deliveries was accepted, has a record or a dead
//! letter, or must not be forwarded any more. At most one delivery of a Page is sent from the queue at a
//! time, in the order of the queue. A body leaves this module only to the address of the program.

mod deliver;
mod forwarder;
mod health;
mod receive;
mod retry;
mod send;

use std::sync::Arc;
use std::time::Duration;

use common::records::forwarding::{self, LEASE, RENEWAL};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::outage::ProcessingGate;
use forwarder::Forwarder;

/// How long the end of the lease is waited for when the process stops.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Forwards deliveries until the process is stopping. Does nothing if no program is configured.
pub(crate) async fn run(context: Context, gate: Arc<ProcessingGate>) {
    let Some(config) = context.forward.clone() else {
        return;
    };
    let forwarder = match Forwarder::new(context.clone(), &config, gate) {
        Ok(forwarder) => Arc::new(forwarder),
        Err(error) => {
            tracing::error!(error = %error, "deliveries cannot be forwarded: the HTTP client cannot be built");
            return;
        }
    };
    while !context.lifecycle.is_stopping() {
        match forwarder.renew().await {
            Ok(true) => forward_while_owner(forwarder.clone()).await,
            Ok(false) => {}
            Err(error) => forwarder.warn(&error),
        }
        tokio::select! {
            () = context.lifecycle.stopping() => {}
            () = tokio::time::sleep(RENEWAL) => {}
        }
    }
}

/// Receives and retries deliveries until the process is stopping or has lost the lease. Then ends what
/// is under way, and releases the lease.
async fn forward_while_owner(forwarder: Arc<Forwarder>) {
    let ended = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(receive::receive_all(forwarder.clone(), ended.clone()));
    tasks.spawn(retry::retry_all(forwarder.clone(), ended.clone()));
    let mut renewed_at = Instant::now();
    loop {
        tokio::select! {
            () = forwarder.context.lifecycle.stopping() => break,
            () = tokio::time::sleep(RENEWAL) => {}
            // Neither of the two ends by itself unless it panics or the deliveries were stopped.
            _ = tasks.join_next() => break,
        }
        match forwarder.renew().await {
            Ok(true) => renewed_at = Instant::now(),
            Ok(false) => break,
            Err(_) if renewed_at.elapsed() < LEASE.saturating_sub(RENEWAL) => {}
            Err(error) => {
                forwarder.warn(&error);
                break;
            }
        }
    }
    ended.cancel();
    while tasks.join_next().await.is_some() {}
    if !forwarder.context.lifecycle.is_stopping() {
        forwarder.give_back_messages().await;
    }
    let release = async {
        let (store, process) = (&*forwarder.context.store, &*forwarder.context.process);
        let now = store.now().await?;
        forwarding::release(store, process, &forwarder.health.take_progress(), now).await
    };
    // The lease ends by itself if the store does not answer.
    let _ = tokio::time::timeout(RELEASE_TIMEOUT, release).await;
}
