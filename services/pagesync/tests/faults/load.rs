//! Signed load: many connections, each webhook sent until it is answered 200, as Facebook does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use simulator::bytes::signature_256;
use simulator::delivery::delivery_body;
use tokio::task::JoinSet;

use crate::support::deployment::APP_SECRET;

/// Connections at the same time.
pub(crate) const CONNECTIONS: usize = 256;
/// One webhook in so many is sent again after its 200.
const DUPLICATE_ONE_IN: u64 = 10;

/// A load under way.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) counts: Arc<Counts>,
    senders: JoinSet<()>,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) attempted: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) in_flight: AtomicU64,
}

/// What the webhook of a Page names it.
pub(crate) fn name_of(page: u64) -> String {
    format!("Seite №{page} / 100%")
}

impl Load {
    /// Sends a webhook for each page to `url`.
    pub(crate) fn start(url: &str, pages: impl IntoIterator<Item = u64>) -> Self {
        let counts = Arc::new(Counts::default());
        let waiting: Arc<Mutex<VecDeque<u64>>> = Arc::new(Mutex::new(pages.into_iter().collect()));
        let client = reqwest::Client::builder()
            .pool_max_idle_per_host(CONNECTIONS)
            .timeout(Duration::from_secs(15))
            .build()
            .unwrap();
        let mut senders = JoinSet::new();
        for _ in 0..CONNECTIONS {
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

    /// Waits until every webhook was answered 200.
    pub(crate) async fn finish(mut self) -> Arc<Counts> {
        while let Some(ended) = self.senders.join_next().await {
            ended.unwrap();
        }
        self.counts
    }
}

async fn send_until_accepted(client: &reqwest::Client, url: &str, page: u64, counts: &Counts) {
    let entry = json!({"id": page.to_string(), "time": 1_760_000_000, "changes": [{"field": "name", "value": name_of(page)}]});
    let body = delivery_body(&[entry]);
    let signature = signature_256(APP_SECRET, body.as_bytes());
    let mut wanted = if page.is_multiple_of(DUPLICATE_ONE_IN) {
        2
    } else {
        1
    };
    while wanted > 0 {
        counts.attempted.fetch_add(1, Ordering::SeqCst);
        counts.in_flight.fetch_add(1, Ordering::SeqCst);
        let request = client
            .post(url)
            .header("x-hub-signature-256", &signature)
            .body(body.clone());
        let status = request.send().await.map(|answer| answer.status().as_u16());
        counts.in_flight.fetch_sub(1, Ordering::SeqCst);
        match status {
            Ok(200) => {
                counts.answered.fetch_add(1, Ordering::SeqCst);
                wanted -= 1;
            }
            // Refused or cut off: Facebook sends again, a little later.
            Ok(503) | Err(_) => pause(Duration::from_millis(20)).await,
            Ok(other) => panic!("a genuine webhook was answered {other}"),
        }
    }
}

/// The pause of a sender between two attempts.
async fn pause(duration: Duration) {
    let mut tick = tokio::time::interval(duration);
    tick.tick().await;
    tick.tick().await;
}
