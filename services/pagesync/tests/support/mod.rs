//! What the test binaries share: servers, deployments, conditions.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]

pub(crate) mod deployment;
pub(crate) mod engine;
pub(crate) mod facebook;
pub(crate) mod faulty_store;
pub(crate) mod process;
pub(crate) mod raw_access;
pub(crate) mod servers;

use std::fs::File;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use model::id::PageId;
use model::job::Job;
use model::time::HostTime;
use model::webhook::parse_delivery;

/// Which backend a test binary runs its scenarios on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TestBackend {
    Embedded,
    Distributed,
}

/// Looks until `condition` answers, at most two minutes: machines are busy, and a test that passes does
/// not wait.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    condition: impl FnMut() -> F,
) -> T {
    within(Duration::from_secs(120), what, condition).await
}

/// Looks until `condition` answers, at most `patience`.
pub(crate) async fn within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let begun = std::time::Instant::now();
    let mut look = tokio::time::interval(Duration::from_millis(10));
    loop {
        look.tick().await;
        if let Some(answer) = condition().await {
            return answer;
        }
        assert!(begun.elapsed() < patience, "waited {patience:?} for {what}");
    }
}

pub(crate) fn page_id(n: u64) -> PageId {
    PageId::parse(&n.to_string()).unwrap()
}

/// The job of a webhook that names Page `n`.
pub(crate) fn webhook_job(n: u64, name: &str) -> Job {
    let name = serde_json::Value::from(name);
    let body = format!(
        r#"{{"object":"page","entry":[{{"id":"{n}","time":1750000000,"changes":[{{"field":"name","value":{name}}}]}}]}}"#
    );
    let entry = parse_delivery(body.as_bytes()).entries.remove(0);
    Job::Webhook {
        entry,
        received_at: HostTime(1_750_000_000_500),
    }
}

/// An HTTP client that follows no redirect.
pub(crate) fn client() -> reqwest::Client {
    common::tls::provide();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

/// A port of this host that is ours until the process ends, so that what listens on it may be killed
/// and started again. It is below the ports a system gives to outgoing connections and to whoever
/// binds port 0, and a lock keeps it from other processes of the tests.
pub(crate) fn own_port() -> u16 {
    static OURS: Mutex<Vec<(u16, File)>> = Mutex::new(Vec::new());
    const FIRST: u16 = 10_000;
    const COUNT: u32 = 6_000;
    let directory = std::env::temp_dir().join("pagesync-test-ports");
    std::fs::create_dir_all(&directory).unwrap();
    let mut ours = OURS.lock().unwrap();
    let begin = ours
        .last()
        .map_or(std::process::id(), |last| u32::from(last.0 - FIRST) + 1);
    for n in begin..begin + COUNT {
        let port = FIRST + u16::try_from(n % COUNT).unwrap();
        let lock = File::create(directory.join(port.to_string())).unwrap();
        if lock.try_lock().is_ok() && std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            ours.push((port, lock));
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}
