//! The load of a run: many connections send signed webhooks. Like Facebook, each connection repeats
//! a webhook until it is answered with 200.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use simulator::bytes::signature_256;
use simulator::delivery::delivery_body;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::deployment::APP_SECRET;

/// The number of connections that send at the same time when a fault is injected.
pub(crate) const CONNECTIONS: usize = 256;
/// One of this many webhooks is sent again after it was answered with 200.
const DUPLICATE_ONE_IN: u64 = 10;

/// A load that is being sent.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) counts: Arc<Counts>,
    senders: JoinSet<()>,
}

/// The counts of a load.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Requests that were sent.
    pub(crate) attempted: AtomicU64,
    /// Requests that were answered with 200. Each answer wakes the receivers.
    pub(crate) answered: watch::Sender<u64>,
    /// Webhooks that a connection is sending and that were not answered with 200 yet.
    pub(crate) in_flight: AtomicU64,
    /// The longest time from a request to its answer with 200, in milliseconds.
    pub(crate) slowest_answer: AtomicU64,
}

/// Returns the name that the webhook of a Page contains.
pub(crate) fn name_of(page: u64) -> String {
    format!("Seite №{page} / 100%")
}

impl Load {
    /// Starts to send one webhook for each Page to `url` on `connections` connections.
    pub(crate) fn start(
        url: &str,
        pages: impl IntoIterator<Item = u64>,
        connections: usize,
    ) -> Self {
        let counts = Arc::new(Counts::default());
        let waiting: Arc<Mutex<VecDeque<u64>>> = Arc::new(Mutex::new(pages.into_iter().collect()));
        let client = reqwest::Client::builder()
            .pool_max_idle_per_host(connections)
            .timeout(Duration::from_secs(15))
            .build()
            .unwrap();
        let mut senders = JoinSet::new();
        for _ in 0..connections {
            let (client, url) = (client.clone(), url.to_owned());
            let (counts, waiting) = (counts.clone(), waiting.clone());
            senders.spawn(async move {
                loop {
                    let Some(page) = waiting.lock().unwrap().pop_front() else {
                        return;
                    };
                    send_until_accepted(&client, &url, page, &counts).await;
                }
            });
        }
        Self { counts, senders }
    }

    /// Waits until every webhook has been answered with 200. Returns the counts. Panics if this takes
    /// five minutes.
    pub(crate) async fn finish(mut self) -> Arc<Counts> {
        let all = async {
            while let Some(ended) = self.senders.join_next().await {
                ended.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(300), all)
            .await
            .expect("every webhook to be accepted");
        self.counts
    }
}

/// Sends the webhook of a Page until it is answered with 200. One of [`DUPLICATE_ONE_IN`] webhooks
/// is sent once more.
async fn send_until_accepted(client: &reqwest::Client, url: &str, page: u64, counts: &Counts) {
    let entry = json!({"id": page.to_string(), "time": 1_760_000_000, "changes": [{"field": "name", "value": name_of(page)}]});
    let body = delivery_body(&[entry]);
    let signature = signature_256(APP_SECRET, body.as_bytes());
    let mut remaining = if page.is_multiple_of(DUPLICATE_ONE_IN) {
        2
    } else {
        1
    };
    counts.in_flight.fetch_add(1, Ordering::SeqCst);
    while remaining > 0 {
        counts.attempted.fetch_add(1, Ordering::SeqCst);
        let began = Instant::now();
        let request = client
            .post(url)
            .header("x-hub-signature-256", &signature)
            .body(body.clone());
        let status = request.send().await.map(|answer| answer.status().as_u16());
        match status {
            Ok(200) => {
                let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                counts.slowest_answer.fetch_max(took, Ordering::SeqCst);
                counts.answered.send_modify(|answered| *answered += 1);
                remaining -= 1;
            }
            // Facebook repeats a webhook that was refused or not answered.
            Ok(503) | Err(_) => wait(Duration::from_millis(20)).await,
            Ok(other) => panic!("a signed webhook was answered with {other}"),
        }
    }
    counts.in_flight.fetch_sub(1, Ordering::SeqCst);
}

/// Waits for `duration`: between two attempts, or while a fault lasts.
pub(crate) async fn wait(duration: Duration) {
    let mut interval = tokio::time::interval(duration);
    // The first tick completes immediately.
    interval.tick().await;
    interval.tick().await;
}
