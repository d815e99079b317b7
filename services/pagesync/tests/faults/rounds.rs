//! The rounds of a run. Each round sends a load, injects a fault at a random point, waits for the
//! recovery, and counts the webhooks without an effect.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::clock::Clock;
use common::config::Role;
use common::config::settings::Environment;
use common::database::{Access, Database};
use common::pages::registration_commit;
use common::queue::Queue;
use common::queue::embedded::EmbeddedQueue;
use common::records::dead_letter;
use common::store::{Commit, CommitOutcome, Store, StoredPage, Versioned};
use model::id::PageId;
use model::polling::Polling;
use model::queue_name::QueueName;
use serde_json::Value as Json;

use crate::load::{CONNECTIONS, Counts, Load, name_of, wait};
use crate::support::deployment::TestStorage;
use crate::support::engine::{Server, ServerKind};
use crate::support::process::Process;
use crate::support::receiver::Receiver;
use crate::support::servers::{database, vhost};
use crate::support::slow_proxy::SlowProxy;
use crate::support::{TestBackend, page_id, within};
use crate::{Options, Totals};

/// The number of webhooks in a round.
const WEBHOOKS: u64 = 1000;
/// The minimum number of webhooks in flight when a fault is injected.
const MIN_IN_FLIGHT: u64 = 200;
/// The delay of each call of a slow Redis.
pub(crate) const SLOW_CALL: Duration = Duration::from_millis(1500);
/// How long Redis is slow.
const SLOW_PERIOD: Duration = Duration::from_secs(15);
/// The maximum time for the recovery from a fault, and for the processing of the remaining work.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(90);

/// Removes the first read from a registration, because its write would count as another effect.
fn without_read(mut registration: Commit) -> Commit {
    registration.due.clear();
    if let Some(write) = &mut registration.page {
        write.page.polling = Polling::default();
    }
    registration
}

/// A fault that a round injects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillIngress,
    KillWorker,
    /// SIGKILL to every process.
    KillAll,
    /// SIGTERM to one process after the other.
    Terminate,
    RestartBroker,
    RestartRedis,
    /// Everything that is sent to Redis is delayed for a while.
    SlowRedis,
    /// SIGTERM to the worker, three times.
    RollingRestarts,
}

/// A deployment whose roles run as processes.
pub(crate) struct Deployment {
    /// Ingress, worker and scheduler, in this order; on the embedded backend the only process.
    pub(crate) processes: Vec<Process>,
    /// RabbitMQ and Redis; `None` on the embedded backend.
    servers: Option<(Server, Server)>,
    /// The proxy through which the processes reach Redis; `None` on the embedded backend.
    proxy: Option<SlowProxy>,
    storage: TestStorage,
    pub(crate) store: Arc<dyn Store>,
    /// The program to which every webhook is forwarded.
    program: Receiver,
    /// The settings that differ from those of `storage`.
    extra: Vec<(&'static str, String)>,
    next_page: u64,
}

/// Injects each fault of a backend `rounds` times, and then checks all effects.
pub(crate) async fn run(
    backend: TestBackend,
    options: &Options,
    chance: &mut fastrand::Rng,
    totals: &mut Totals,
) {
    let rounds = options.rounds;
    let mut deployment = Deployment::new(backend).await;
    let faults: &[Fault] = match backend {
        TestBackend::Embedded => &[Fault::KillAll, Fault::Terminate],
        TestBackend::Distributed => &[
            Fault::KillIngress,
            Fault::KillWorker,
            Fault::KillAll,
            Fault::Terminate,
            Fault::RestartBroker,
            Fault::RestartRedis,
            Fault::SlowRedis,
            Fault::RollingRestarts,
        ],
    };
    for fault in faults {
        let (mut least_in_flight, mut recoveries) = (u64::MAX, Vec::new());
        for _ in 0..rounds {
            let (in_flight, recovery) = deployment.round(*fault, chance, totals).await;
            least_in_flight = least_in_flight.min(in_flight);
            recoveries.push(recovery);
        }
        recoveries.sort_unstable();
        let median = recoveries[recoveries.len() / 2];
        let longest = recoveries[recoveries.len() - 1];
        println!(
            "{backend:?} {fault:?}: {rounds} rounds, in flight at least {least_in_flight}, recovered after {} ms, at most {} ms",
            median.as_millis(),
            longest.as_millis()
        );
    }
    // A round of hostile clients takes as long as ten others.
    for _ in 0..rounds.div_ceil(10) {
        deployment.hostile_clients_round(totals).await;
    }
    if backend == TestBackend::Distributed {
        deployment.overload_round(options, totals).await;
    }
    deployment.check_effects(totals).await;
}

impl Deployment {
    /// Starts the processes, and RabbitMQ and Redis if the backend needs them.
    async fn new(backend: TestBackend) -> Self {
        let (storage, servers) = match backend {
            TestBackend::Embedded => (TestStorage::new(backend).await, None),
            TestBackend::Distributed => {
                let broker = Server::start(ServerKind::RabbitMq).await;
                let redis = Server::start(ServerKind::Redis).await;
                let storage = TestStorage::Distributed {
                    vhost: vhost(&broker).await,
                    redis: database(&redis),
                };
                (storage, Some((broker, redis)))
            }
        };
        let (proxy, proxied) = match (&storage, &servers) {
            (TestStorage::Distributed { redis, .. }, Some((_, server))) => {
                let port = server.ports[0];
                let proxy = SlowProxy::start(port).await;
                let proxied = redis.replace(&port.to_string(), &proxy.port.to_string());
                (Some(proxy), proxied)
            }
            _ => (None, String::new()),
        };
        let program = Receiver::start().await;
        let mut extra = vec![
            ("PAGESYNC_FORWARD_URL", program.url.clone()),
            ("PAGESYNC_FORWARD_DELIVERIES", "all".to_owned()),
        ];
        if proxy.is_some() {
            extra.push(("PAGESYNC_REDIS_URL", proxied));
        }
        let store = storage.store();
        let mut deployment = Self {
            processes: Vec::new(),
            servers,
            proxy,
            storage,
            store,
            program,
            extra,
            next_page: 1_000_000,
        };
        for role in deployment.storage.roles() {
            let environment = deployment.environment(role);
            let process = Process::start(role.name(), environment).await;
            deployment.processes.push(process);
        }
        deployment
    }

    /// Returns the settings of a role.
    pub(crate) fn environment(&self, role: Role) -> Environment {
        let extra: Vec<_> = self
            .extra
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        self.storage.environment(role, &extra)
    }

    /// Returns the proxy in front of Redis. Panics on the embedded backend.
    pub(crate) fn proxy(&self) -> &SlowProxy {
        self.proxy.as_ref().expect("a distributed deployment")
    }

    /// Returns the queue.
    pub(crate) async fn queue(&self) -> Arc<dyn Queue> {
        match &self.storage {
            TestStorage::Embedded(directory) => {
                let database = Database::open(directory.path(), Access::Shared).unwrap();
                Arc::new(
                    EmbeddedQueue::open(Arc::new(database), Access::Shared)
                        .await
                        .unwrap(),
                )
            }
            TestStorage::Distributed { .. } => self.storage.queue().await,
        }
    }

    /// Runs one round. Returns the number of webhooks in flight at the fault, and the duration of
    /// the recovery.
    async fn round(
        &mut self,
        fault: Fault,
        chance: &mut fastrand::Rng,
        totals: &mut Totals,
    ) -> (u64, Duration) {
        let pages = self.register_next().await;
        let load = Load::start(&self.processes[0].webhook_url(), pages.clone(), CONNECTIONS);
        let fault_at = chance.u64(50..=WEBHOOKS - 3 * CONNECTIONS as u64);
        let counts = load.counts.clone();
        // The answer that reaches the fault's point wakes this task, so that the load is still under
        // way.
        let mut answered = counts.answered.subscribe();
        let under_way = answered.wait_for(|answered| *answered >= fault_at);
        tokio::time::timeout(TIMEOUT, under_way)
            .await
            .expect("an answer")
            .unwrap();
        let in_flight = counts.in_flight.load(Ordering::SeqCst);
        assert!(in_flight >= MIN_IN_FLIGHT, "only {in_flight} in flight");
        let repaired_at = self.inject(fault).await;
        let recovery = self.recovery(fault, &load, &pages, repaired_at).await;
        let counts = load.finish().await;
        self.count(&counts, &pages, totals).await;
        (in_flight, recovery)
    }

    /// Waits until work continues after a fault. Returns the time since `at`. Work continues when
    /// one more webhook is answered or, after a fault of the worker or of Redis, when one more Page
    /// has a name.
    async fn recovery(&self, fault: Fault, load: &Load, pages: &[u64], at: Instant) -> Duration {
        let is_behind_queue = matches!(
            fault,
            Fault::KillWorker | Fault::RestartRedis | Fault::SlowRedis | Fault::RollingRestarts
        );
        let done = async || {
            if is_behind_queue {
                let unnamed = self.unnamed(pages).await;
                unnamed.map(|unnamed| WEBHOOKS - unnamed.len() as u64)
            } else {
                Some(*load.counts.answered.borrow())
            }
        };
        let before = done().await.unwrap_or(0);
        within(TIMEOUT, "work to continue after the fault", || async {
            let now = done().await?;
            (now > before || now >= WEBHOOKS).then(|| at.elapsed())
        })
        .await
    }

    /// Returns the Pages without a name, or `None` if the store does not answer.
    async fn unnamed(&self, pages: &[u64]) -> Option<Vec<u64>> {
        let ids: Vec<PageId> = pages.iter().map(|page| page_id(*page)).collect();
        let stored = self.store.load_pages(&ids).await.ok()?;
        let named = |stored: &Versioned<StoredPage>| matches!(&stored.value, StoredPage::Page(page) if !page.registers.is_empty());
        let unnamed = pages
            .iter()
            .zip(stored)
            .filter(|(_, stored)| !named(stored));
        Some(unnamed.map(|(page, _)| *page).collect())
    }

    /// Registers the Pages of the next round. Returns their numbers.
    pub(crate) async fn register_next(&mut self) -> Vec<u64> {
        let pages: Vec<u64> = (self.next_page..self.next_page + WEBHOOKS).collect();
        self.next_page += WEBHOOKS;
        self.register(&pages).await;
        pages
    }

    /// Registers Pages without a first read.
    async fn register(&self, pages: &[u64]) {
        let now = Clock::system().now();
        let commits: Vec<Commit> = pages
            .iter()
            .map(|page| registration_commit(&page_id(*page), 0, now))
            .map(without_read)
            .collect();
        // Redis may have made a commit whose reply came too late after a restart. The next attempt
        // is then stale.
        let failed_before = AtomicBool::new(false);
        let outcomes = within(TIMEOUT, "the Pages to be registered", || async {
            let outcomes = self.store.commit(&commits).await;
            failed_before.fetch_or(outcomes.is_err(), Ordering::SeqCst);
            outcomes.ok()
        })
        .await;
        let may_be_stale = failed_before.into_inner();
        let is_right = |outcome: &CommitOutcome| *outcome == CommitOutcome::Applied || may_be_stale;
        assert!(outcomes.iter().all(is_right), "{outcomes:?}");
    }

    /// Injects a fault and ends it. Returns the time at which everything was running again.
    async fn inject(&mut self, fault: Fault) -> Instant {
        match fault {
            Fault::KillIngress => self.kill_and_start(0..1).await,
            Fault::KillWorker => self.kill_and_start(1..2).await,
            Fault::KillAll => self.kill_and_start(0..self.processes.len()).await,
            // The processes are under load, so each is stopped in the middle of its work.
            Fault::Terminate => {
                for process in &mut self.processes {
                    process.terminate().await;
                    process.start_again().await;
                }
            }
            Fault::SlowRedis => {
                self.proxy().set_delay(SLOW_CALL);
                wait(SLOW_PERIOD).await;
                self.proxy().set_delay(Duration::ZERO);
            }
            Fault::RollingRestarts => {
                for _ in 0..3 {
                    self.processes[1].terminate().await;
                    self.processes[1].start_again().await;
                }
            }
            Fault::RestartBroker | Fault::RestartRedis => {
                let (broker, redis) = self.servers.as_ref().expect("a distributed deployment");
                let is_broker = fault == Fault::RestartBroker;
                let server = if is_broker { broker } else { redis };
                server.kill().await;
                server.start_again().await;
            }
        }
        Instant::now()
    }

    /// Kills processes, then starts them again.
    async fn kill_and_start(&mut self, which: std::ops::Range<usize>) {
        for process in &mut self.processes[which.clone()] {
            process.kill();
        }
        for process in &mut self.processes[which] {
            process.start_again().await;
        }
    }

    /// Adds the counts of a load that has ended to the totals.
    pub(crate) async fn count(&self, counts: &Counts, pages: &[u64], totals: &mut Totals) {
        totals.attempted += counts.attempted.load(Ordering::SeqCst);
        totals.acknowledged += *counts.answered.borrow();
        totals.lost += self.count_lost(pages).await;
    }

    /// Waits until every Page has a name. Returns how many have none when the timeout ends.
    async fn count_lost(&self, pages: &[u64]) -> u64 {
        let mut missing: Vec<u64> = pages.to_vec();
        let began = Instant::now();
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        while !missing.is_empty() && began.elapsed() < TIMEOUT {
            interval.tick().await;
            if let Some(unnamed) = self.unnamed(&missing).await {
                missing = unnamed;
            }
        }
        for page in missing.iter().take(3) {
            println!("lost: the webhook of Page {page}");
        }
        missing.len() as u64
    }

    /// Stops the processes. Then counts the effects on all Pages, the dead letters and the messages
    /// left in the queues.
    async fn check_effects(&mut self, totals: &mut Totals) {
        let queue = self.wait_until_drained(totals).await;
        totals.not_forwarded += self.count_not_forwarded().await;
        for process in &mut self.processes {
            process.terminate().await;
        }
        for first in (1_000_000..self.next_page).step_by(500) {
            let pages: Vec<u64> = (first..(first + 500).min(self.next_page)).collect();
            let ids: Vec<PageId> = pages.iter().map(|page| page_id(*page)).collect();
            let loaded = within(TIMEOUT, "the Pages to be loaded", || async {
                self.store.load_pages(&ids).await.ok()
            });
            for (page, stored) in pages.iter().zip(loaded.await) {
                let Versioned {
                    version,
                    value: StoredPage::Page(state),
                } = stored
                else {
                    totals.unexpected += 1;
                    continue;
                };
                let value = state
                    .registers
                    .values()
                    .next()
                    .and_then(|register| register.value.as_ref());
                let is_right = value.map(model::value::CanonicalValue::to_json)
                    == Some(Json::from(name_of(*page)));
                totals.unexpected +=
                    u64::from(value.is_some() && (!is_right || state.registers.len() != 1));
                // The registration and the name are two writes; any other is a duplicate effect.
                totals.duplicated += u64::from(version > 2);
            }
        }
        let dead_letters = within(TIMEOUT, "the dead letters to be listed", || async {
            dead_letter::list(&*self.store).await.ok()
        })
        .await;
        for (_, dead_letter) in dead_letters.iter().take(3) {
            println!("unexpected: a dead letter, {}", dead_letter.reason);
        }
        totals.unexpected += dead_letters.len() as u64;
        // A webhook that no process acknowledged is in its queue again. A poll that was published
        // while the processes stopped is no error.
        totals.unexpected += queue.depth(QueueName::Webhooks).await.unwrap().messages;
    }

    /// Waits until every webhook was forwarded. Returns how many were not when the timeout ends.
    async fn count_not_forwarded(&self) -> u64 {
        let began = Instant::now();
        let mut interval = tokio::time::interval(Duration::from_millis(100));
        let mut missing: BTreeSet<String> = (1_000_000..self.next_page)
            .map(|page| page.to_string())
            .collect();
        while !missing.is_empty() && began.elapsed() < TIMEOUT {
            interval.tick().await;
            for post in self.program.take() {
                for entry in post.json()["entry"].as_array().unwrap() {
                    missing.remove(entry["id"].as_str().unwrap());
                }
            }
        }
        for page in missing.iter().take(3) {
            println!("not forwarded: the webhook of Page {page}");
        }
        missing.len() as u64
    }

    /// Waits until the queues are empty. Every Page may already have its name while the second
    /// copies of repeated webhooks are still queued.
    async fn wait_until_drained(&self, totals: &mut Totals) -> Arc<dyn Queue> {
        let queue = self.queue().await;
        let began = Instant::now();
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        let mut waiting = 1;
        while waiting > 0 && began.elapsed() < TIMEOUT {
            interval.tick().await;
            waiting = 0;
            for queue_name in QueueName::ALL {
                waiting += queue.depth(queue_name).await.unwrap().messages;
            }
        }
        if waiting > 0 {
            println!("unexpected: {waiting} messages are left in the queues");
            totals.unexpected += waiting;
        }
        queue
    }
}
