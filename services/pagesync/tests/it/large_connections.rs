//! Walks through many Pages by processes of the real executable: all are found, with few calls, in
//! little memory, and a kill -9 in the middle repeats at most one result page.

use std::collections::BTreeMap;
use std::time::Duration;

use common::config::Role;
use common::config::settings::Environment;
use common::records::connection;
use simulator::Simulator;
use simulator::browser::{Decision, LoginBrowser};

use crate::BACKEND;
use crate::support::deployment::Place;
use crate::support::facebook::{facebook, settings};
use crate::support::process::Process;
use crate::support::{own_port, within};

/// How long a large walk of a debug build may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Processes of the real executable, and the Facebook they talk to.
struct Stage {
    place: Place,
    processes: BTreeMap<&'static str, Process>,
    simulator: Simulator,
    public: String,
}

impl Stage {
    async fn new(pages: usize) -> Self {
        let port = own_port();
        let public = format!("http://127.0.0.1:{port}");
        let (simulator, address) = facebook(&public, pages).await;
        let place = Place::new(BACKEND).await;
        let mut processes = BTreeMap::new();
        for role in place.roles() {
            let mut environment: Environment = place.environment(role, &[]);
            environment.extend(settings(&public, &address));
            let faces = matches!(role, Role::Up | Role::Ingress);
            let port = if faces { port } else { own_port() };
            let process = Process::start_on(role.name(), environment, port).await;
            processes.insert(role.name(), process);
        }
        Self {
            place,
            processes,
            simulator,
            public,
        }
    }

    /// The process that walks.
    fn worker(&mut self) -> &mut Process {
        let name = if self.processes.contains_key("up") {
            "up"
        } else {
            "worker"
        };
        self.processes.get_mut(name).unwrap()
    }

    /// Logs in as a browser that looks once: what is measured is the walk, not its long answer.
    async fn log_in(&self) {
        let mut visitor = LoginBrowser::new().unwrap();
        let login = format!("{}/facebook/login", self.public);
        let callback = visitor.log_in(&login, &Decision::default()).await;
        let callback = callback.unwrap().unwrap();
        let shown = visitor.get_as(&callback, "text/html").await.unwrap();
        assert_eq!(shown.status(), 200);
    }

    fn calls(&self) -> u64 {
        self.simulator
            .facebook()
            .calls
            .get("GET me/accounts")
            .copied()
            .unwrap_or(0)
    }

    /// Waits until a walk listed so many Pages.
    async fn walked(&self, pages: u64) {
        let store = self.place.store();
        within(PATIENCE, "the walk to end", || async {
            let all = connection::list(&*store).await.ok()?;
            let last = all.first()?.last_poll.as_ref()?;
            (last.pages == pages).then_some(())
        })
        .await;
        let mut found = 0;
        let mut after = None;
        loop {
            let some = store.list_pages(after.as_ref(), 500).await.unwrap();
            let Some((last, _)) = some.last() else { break };
            after = Some(last.clone());
            found += some.len() as u64;
        }
        assert_eq!(found, pages, "every Page is in the store");
    }

    async fn end(mut self) {
        for process in self.processes.values_mut() {
            process.terminate().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_walk_goes_on_where_it_was() {
    let mut stage = Stage::new(1500).await;
    stage.log_in().await;
    within(PATIENCE, "the walk to be under way", || async {
        (stage.calls() >= 5).then_some(())
    })
    .await;
    stage.worker().kill();
    // The scheduler too, at whatever it was doing: a lease is all it leaves.
    if let Some(scheduler) = stage.processes.get_mut("scheduler") {
        scheduler.kill();
        scheduler.start_again().await;
    }
    let before = stage.calls();
    assert!(before < 15, "killed in the middle");
    stage.worker().start_again().await;
    stage.walked(1500).await;
    let calls = stage.calls();
    assert!(
        calls <= 16,
        "{calls} calls for 15 result pages: at most one is repeated"
    );
    println!("1500 Pages, killed after {before} calls: {calls} calls");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_calls_and_little_memory_however_many_pages() {
    let mut memory = Vec::new();
    for pages in [26, 250, 5000] {
        let mut stage = Stage::new(pages).await;
        stage.log_in().await;
        stage.walked(pages as u64).await;
        let calls = stage.calls();
        assert!(
            calls <= pages as u64 / 100 + 2,
            "{calls} calls for {pages} Pages"
        );
        if pages <= 250 {
            // The large walk has time to subscribe many of its Pages; so must the small ones.
            within(PATIENCE, "the subscriptions", || async {
                (stage.simulator.facebook().page_subscriptions.len() == pages).then_some(())
            })
            .await;
        }
        let resident = stage.worker().memory();
        println!(
            "{pages} Pages: {calls} calls, {} KiB resident",
            resident / 1024
        );
        memory.push(resident);
        stage.end().await;
    }
    let (small, large) = (memory[1], memory[2]);
    assert!(
        large * 10 <= small * 12,
        "{large} bytes for 5,000 Pages, {small} for 250"
    );
}
