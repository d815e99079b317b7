//! Code that the test binaries share: servers, deployments, faults, and functions that wait for a
//! condition.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]

pub(crate) mod api;
pub(crate) mod deployment;
pub(crate) mod engine;
pub(crate) mod facebook;
pub(crate) mod faulty_store;
pub(crate) mod process;
pub(crate) mod raw_access;
pub(crate) mod receiver;
pub(crate) mod reference;
pub(crate) mod servers;
pub(crate) mod slow_proxy;

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use common::store::{Store, StoreError};
use model::id::PageId;
use model::job::Job;
use model::time::HostTime;
use model::webhook::parse_webhook;

/// The backend that a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TestBackend {
    Embedded,
    Distributed,
}

/// Checks `condition` until it returns a value. Panics after two minutes. The limit is long because
/// test machines can be busy; tests that pass do not wait for it.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    condition: impl FnMut() -> F,
) -> T {
    within(Duration::from_secs(120), what, condition).await
}

/// Checks `condition` every 10 ms until it returns a value. Panics after `timeout`.
pub(crate) async fn within<T, F: Future<Output = Option<T>>>(
    timeout: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let began = std::time::Instant::now();
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    loop {
        interval.tick().await;
        if let Some(value) = condition().await {
            return value;
        }
        assert!(began.elapsed() < timeout, "waited {timeout:?} for {what}");
    }
}

/// Returns the configuration of a command without settings.
pub(crate) fn command_config() -> common::config::Config {
    common::config::Config::read(&BTreeMap::new(), common::config::Role::Command).unwrap()
}

/// Returns the Page id with the number `n`.
pub(crate) fn page_id(n: u64) -> PageId {
    PageId::parse(&n.to_string()).unwrap()
}

/// Returns the job of a webhook that sets the name of Page `n`.
pub(crate) fn webhook_job(n: u64, name: &str) -> Job {
    let name = serde_json::Value::from(name);
    let body = format!(
        r#"{{"object":"page","entry":[{{"id":"{n}","time":1750000000,"changes":[{{"field":"name","value":{name}}}]}}]}}"#
    );
    let entry = parse_webhook(body.as_bytes()).entries.remove(0);
    Job::Webhook {
        entry,
        received_at: HostTime(1_750_000_000_500),
    }
}

/// Returns an HTTP client that follows no redirect.
pub(crate) fn client() -> reqwest::Client {
    common::tls::install_provider();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

/// Returns a free port that stays reserved until this process ends, so that a server on it can be
/// killed and started again.
///
/// The port is below the range from which systems choose ports for outgoing connections and for
/// listeners on port 0. A lock file keeps other test processes from reserving it.
pub(crate) fn reserve_port() -> u16 {
    static RESERVED: Mutex<Vec<(u16, File)>> = Mutex::new(Vec::new());
    const FIRST: u16 = 10_000;
    const COUNT: u32 = 6_000;
    let directory = std::env::temp_dir().join("pagesync-test-ports");
    std::fs::create_dir_all(&directory).unwrap();
    let mut reserved = RESERVED.lock().unwrap();
    let begin = reserved
        .last()
        .map_or(std::process::id(), |last| u32::from(last.0 - FIRST) + 1);
    for n in begin..begin + COUNT {
        let port = FIRST + u16::try_from(n % COUNT).unwrap();
        let lock = File::create(directory.join(port.to_string())).unwrap();
        if lock.try_lock().is_ok() && std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            reserved.push((port, lock));
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}

/// Requests a read of a Page. Returns when it is due, or `None` if the Page is not stored.
pub(crate) async fn request_read(
    store: &dyn Store,
    id: &PageId,
    now: HostTime,
) -> Result<Option<HostTime>, StoreError> {
    let due = common::pages::request_reads(store, std::slice::from_ref(id), now).await?;
    Ok(due[0])
}
