//! Connection polls of many Pages by processes of the real executable. They find every Page with
//! few calls and little memory, and repeat at most one result page after a kill.

use std::collections::BTreeMap;
use std::time::Duration;

use common::config::Role;
use common::config::settings::Environment;
use common::records::connection;
use simulator::Simulator;
use simulator::browser::{Decision, LoginBrowser};

use crate::BACKEND;
use crate::support::deployment::TestStorage;
use crate::support::facebook::{facebook, settings};
use crate::support::process::Process;
use crate::support::{reserve_port, within};

/// The maximum duration of a connection poll of many Pages, which is long in a debug build.
const POLL_TIMEOUT: Duration = Duration::from_secs(600);

/// Processes of the real executable, and the simulated Facebook that they call.
struct ProcessDeployment {
    storage: TestStorage,
    processes: BTreeMap<&'static str, Process>,
    simulator: Simulator,
    /// The base address of the public listener.
    public: String,
}

impl ProcessDeployment {
    /// Starts a simulated Facebook with `pages` Pages, and every role of the backend.
    async fn new(pages: usize) -> Self {
        let port = reserve_port();
        let public = format!("http://127.0.0.1:{port}");
        let (simulator, address) = facebook(&public, pages).await;
        let storage = TestStorage::new(BACKEND).await;
        let mut processes = BTreeMap::new();
        for role in storage.roles() {
            let mut environment: Environment = storage.environment(role, &[]);
            environment.extend(settings(&public, &address));
            let is_public = matches!(role, Role::Up | Role::Ingress);
            let port = if is_public { port } else { reserve_port() };
            let process = Process::start_on(role.name(), environment, port).await;
            processes.insert(role.name(), process);
        }
        Self {
            storage,
            processes,
            simulator,
            public,
        }
    }

    /// Returns the process that runs the worker.
    fn worker(&mut self) -> &mut Process {
        let name = if self.processes.contains_key("up") {
            "up"
        } else {
            "worker"
        };
        self.processes.get_mut(name).unwrap()
    }

    /// Logs in and requests the callback once, as HTML. The JSON answer would list every Page and
    /// add to the measured memory.
    async fn log_in(&self) {
        let mut visitor = LoginBrowser::new().unwrap();
        let login = format!("{}/facebook/login", self.public);
        let callback = visitor.log_in(&login, &Decision::default()).await;
        let callback = callback.unwrap().unwrap();
        let shown = visitor.get_as(&callback, "text/html").await.unwrap();
        assert_eq!(shown.status(), 200);
    }

    /// Returns the number of result pages that were requested.
    fn calls(&self) -> u64 {
        self.simulator
            .facebook()
            .calls
            .get("GET me/accounts")
            .copied()
            .unwrap_or(0)
    }

    /// Waits until a connection poll has listed `pages` Pages, and checks that all of them are
    /// stored.
    async fn wait_for_poll(&self, pages: u64) {
        let store = self.storage.store();
        within(POLL_TIMEOUT, "the connection poll to end", || async {
            let all = connection::list(&*store).await.ok()?;
            let last = all.first()?.last_poll.as_ref()?;
            (last.pages == pages).then_some(())
        })
        .await;
        let mut found = 0;
        let mut after = None;
        loop {
            let chunk = store
                .list_pages(&common::store::PageIndex::All, after.as_ref(), 500)
                .await
                .unwrap();
            let Some((last, _)) = chunk.last() else { break };
            after = Some(last.clone());
            found += chunk.len() as u64;
        }
        assert_eq!(found, pages, "Pages in the store");
    }

    /// Ends every process with SIGTERM.
    async fn end(mut self) {
        for process in self.processes.values_mut() {
            process.terminate().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_poll_continues_at_its_cursor() {
    let mut stage = ProcessDeployment::new(1500).await;
    stage.log_in().await;
    within(
        POLL_TIMEOUT,
        "the connection poll to be in progress",
        || async { (stage.calls() >= 5).then_some(()) },
    )
    .await;
    stage.worker().kill();
    // The scheduler is killed as well. Only the lease of its claim is left.
    if let Some(scheduler) = stage.processes.get_mut("scheduler") {
        scheduler.kill();
        scheduler.start_again().await;
    }
    let before = stage.calls();
    assert!(before < 15, "the poll ended before the kill");
    stage.worker().start_again().await;
    stage.wait_for_poll(1500).await;
    let calls = stage.calls();
    assert!(
        calls <= 16,
        "{calls} calls for 15 result pages: at most one is repeated"
    );
    println!("1500 Pages: {calls} calls in all, the kill came after {before}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_memory_stay_low_for_5000_pages() {
    let mut peaks = Vec::new();
    for pages in [26, 250, 5000] {
        let mut stage = ProcessDeployment::new(pages).await;
        stage.log_in().await;
        stage.wait_for_poll(pages as u64).await;
        let calls = stage.calls();
        assert!(
            calls <= pages as u64 / 100 + 2,
            "{calls} calls for {pages} Pages"
        );
        if pages <= 250 {
            // A poll of 5,000 Pages lasts so long that many are subscribed meanwhile. For fewer
            // Pages, the test waits for the subscriptions, so that the memory is comparable.
            within(POLL_TIMEOUT, "the subscriptions", || async {
                (stage.simulator.facebook().page_subscriptions.len() == pages).then_some(())
            })
            .await;
        }
        let peak = stage.worker().peak_memory();
        println!(
            "{pages} Pages: {calls} calls, at most {} KiB resident",
            peak / 1024
        );
        peaks.push(peak);
        stage.end().await;
    }
    let (small, large) = (peaks[1], peaks[2]);
    assert!(
        large * 2 <= small * 3,
        "at most {large} bytes for 5,000 Pages, {small} for 250"
    );
}
